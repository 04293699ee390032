// The kernels, once, over the V16 of the including file: it defines ISA (avx512, avx2, portable) and includes the lanes
// first. Everything is in an unnamed namespace: a function compiled for one instruction set must never serve another.
#include <algorithm>
#include <cmath>

#include "device.h"
#include "kernels.h"
#include "learn_steps.h"
#include "seqlock.h"

#include "exp_log_impl.h"
#include "optimizer_impl.h"

namespace ISA {
namespace {

inline void prefetch_row(const float* p, int64_t floats) {
    for (int64_t i = 0; i < floats; i += 16) __builtin_prefetch(p + i);
}

// Two distances: the nearest cache has few lines under way at once, the second one many.
constexpr int64_t kNear = 6, kFar = 24;
inline void prefetch_row_far(const float* p, int64_t floats) {
    for (int64_t i = 0; i < floats; i += 16) __builtin_prefetch(p + i, 0, 2);
}

// The kernels that matter are templates over the dim, 0 for one that is known at run time only: with the usual ones
// known to the compiler, loops unroll and tails vanish. The order of operations does not depend on it.
#define ROWTIDE_FOR_DIM(dim, name, ...)    \
    switch (dim) {                         \
        case 64:                           \
            return name<64>(__VA_ARGS__);  \
        case 128:                          \
            return name<128>(__VA_ARGS__); \
        default:                           \
            return name<0>(__VA_ARGS__);   \
    }

// out = sum over t of coefs[t] * rows[t], in the order of t; null rows are left out. Four blocks of 16 run side by side
// to hide the latency of the fma chain; each float has its own chain, so the blocking does not change the bits.
void combine(const float* const* rows, const float* coefs, int64_t n, int64_t dim, float* out) {
    int64_t d = 0;
    for (; d + 64 <= dim; d += 64) {
        V16 a0 = set1(0.0f), a1 = a0, a2 = a0, a3 = a0;
        for (int64_t t = 0; t < n; ++t) {
            if (!rows[t]) continue;
            const float* r = rows[t] + d;
            const V16 c = set1(coefs[t]);
            a0 = fma(c, load(r), a0);
            a1 = fma(c, load(r + 16), a1);
            a2 = fma(c, load(r + 32), a2);
            a3 = fma(c, load(r + 48), a3);
        }
        store(out + d, a0);
        store(out + d + 16, a1);
        store(out + d + 32, a2);
        store(out + d + 48, a3);
    }
    for (; d < dim; d += 16) {
        V16 acc = set1(0.0f);
        for (int64_t t = 0; t < n; ++t)
            if (rows[t]) acc = fma(set1(coefs[t]), load(rows[t] + d, dim - d), acc);
        store(out + d, acc, dim - d);
    }
}

void pool_bag(const float* const* rows, const float* weights, int64_t n, int64_t dim, float* out) {
    if (weights) return combine(rows, weights, n, dim, out);
    for (int64_t d = 0; d < dim; d += 16) {
        V16 acc = set1(0.0f);
        for (int64_t t = 0; t < n; ++t) acc = add(acc, load(rows[t] + d, dim - d));
        store(out + d, acc, dim - d);
    }
}

template <int64_t kDim>
inline void add_scaled(float* out, float c, const float* x, int64_t dim) {
    const int64_t D = kDim ? kDim : dim;
    for (int64_t d = 0; d < D; d += 16) {
        const int64_t n = D - d;
        store(out + d, fma(set1(c), load(x + d, n), load(out + d, n)), n);
    }
}

// Scores of the K shared negatives go into the event's row of negative_coefs, and become probabilities there.
template <int64_t kDim>
void softmax_grads_dim(const LossStep& s) {
    const int64_t K = s.negatives, D = kDim ? kDim : s.dim;
    for (int64_t b = 0; b < s.events; ++b) {
        const float* q = s.queries[b];
        const float* positive = s.positives[b];
        float* p = s.negative_coefs + b * K;
        const float score = dot<kDim>(q, positive, D) + positive[D];
        constexpr float kMasked = -INFINITY;
        V16 lanes[8];
        float eight[8];
        int64_t k = 0;
        for (; k + 8 <= K; k += 8) {
            for (int i = 0; i < 8; ++i) {
                const float* row = s.negative_rows[k + i];
                lanes[i] = dot_lanes<kDim>(q, row ? row : positive, D);
            }
            sum8(lanes, eight);
            for (int i = 0; i < 8; ++i) {
                const float* row = s.negative_rows[k + i];
                p[k + i] = row && row != positive ? eight[i] + row[D] : kMasked;
            }
        }
        for (; k < K; ++k) {
            const float* row = s.negative_rows[k];
            p[k] = row && row != positive ? dot<kDim>(q, row, D) + row[D] : kMasked;
        }
        V16 top16 = set1(score);
        for (k = 0; k < K; k += 16) {
            // Lanes past the end must not raise the maximum: they repeat the positive's score.
            float block[16];
            for (int i = 0; i < 16; ++i) block[i] = k + i < K ? p[k + i] : score;
            top16 = max(load(block), top16);
        }
        float tops[16];
        store(tops, top16);
        float top = score;
        for (float t : tops) top = t > top ? t : top;
        V16 total16 = set1(0.0f);
        for (k = 0; k < K; k += 16) {
            V16 e = exp16(sub(load(p + k, K - k), set1(top)));
            store(p + k, e, K - k);
            total16 = add(total16, load(p + k, K - k));
        }
        float one[16];
        store(one, exp16(set1(score - top)));
        const float total = one[0] + sum(total16);
        const float weight = s.weights ? s.weights[b] : 1.0f;
        const float scale = weight / total;
        for (k = 0; k < K; k += 16) store(p + k, mul(load(p + k, K - k), set1(scale)), K - k);
        s.losses[b] = weight * (log1(total) - (score - top));
        // 1 - p(positive) is the share of the negatives: no cancellation when the positive is all but certain.
        const float coef = -(sum(total16) * scale);
        s.positive_coefs[b] = coef;
        float* grad = s.query_grads + b * s.grad_stride;
        combine(s.negative_rows, p, K, D, grad);
        add_scaled<kDim>(grad, coef, positive, D);
    }
}

void softmax_grads(const LossStep& s) { ROWTIDE_FOR_DIM(s.dim, softmax_grads_dim, s) }

template <int64_t kDim>
void bpr_grads_dim(const LossStep& s) {
    const int64_t K = s.negatives, D = kDim ? kDim : s.dim;
    for (int64_t b = 0; b < s.events; ++b) {
        if (const int64_t i = b + kFar; i < s.events) {
            prefetch_row_far(s.queries[i], D);
            prefetch_row_far(s.positives[i], D + 3);
            for (int64_t k = 0; k < K; ++k)
                if (s.negative_rows[i * K + k]) prefetch_row_far(s.negative_rows[i * K + k], D + 3);
        }
        if (const int64_t i = b + kNear; i < s.events) {
            prefetch_row(s.queries[i], D);
            prefetch_row(s.positives[i], D + 3);
            for (int64_t k = 0; k < K; ++k)
                if (s.negative_rows[i * K + k]) prefetch_row(s.negative_rows[i * K + k], D + 3);
        }
        const float* q = s.queries[b];
        const float* positive = s.positives[b];
        const float* const* rows = s.negative_rows + b * K;
        float* coefs = s.negative_coefs + b * K;
        const float score = dot<kDim>(q, positive, D) + positive[D];
        int64_t live = 0;
        for (int64_t k = 0; k < K; ++k) {
            const bool masked = !rows[k] || rows[k] == positive;
            coefs[k] = masked ? 0.0f : score - (dot<kDim>(q, rows[k], D) + rows[k][D]);
            live += !masked;
        }
        const float weight = s.weights ? s.weights[b] : 1.0f;
        const float share = live ? weight / static_cast<float>(live) : 0.0f;
        V16 loss16 = set1(0.0f), total16 = set1(0.0f);
        for (int64_t k = 0; k < K; k += 16) {
            float keep[16];
            for (int i = 0; i < 16; ++i) keep[i] = k + i < K && rows[k + i] && rows[k + i] != positive ? share : 0.0f;
            V16 loss;
            const V16 grad = mul(miss16(load(coefs + k, K - k), &loss), load(keep));
            loss16 = fma(loss, load(keep), loss16);
            total16 = add(total16, grad);
            store(coefs + k, grad, K - k);
        }
        const float coef = -sum(total16);
        s.losses[b] = sum(loss16);
        s.positive_coefs[b] = coef;
        float* grad = s.query_grads + b * s.grad_stride;
        combine(rows, coefs, K, D, grad);
        add_scaled<kDim>(grad, coef, positive, D);
    }
}

// The same with one negative: sixteen events at a time, each in its lane.
template <int64_t kDim>
void bpr_pairs_dim(const LossStep& s) {
    const int64_t D = kDim ? kDim : s.dim;
    const auto rows_of = [&](int64_t b, auto prefetch) {
        prefetch(s.queries[b], D);
        prefetch(s.positives[b], D + 3);
        if (s.negative_rows[b]) prefetch(s.negative_rows[b], D + 3);
    };
    for (int64_t from = 0; from < s.events; from += 16) {
        const int64_t n = std::min<int64_t>(16, s.events - from);
        float margins[16] = {}, keep[16] = {};
        for (int64_t half = 0; half < n; half += 8) {
            V16 positive16[8], negative16[8];
            for (int64_t i = half; i < half + 8; ++i) {
                const int64_t b = from + std::min(i, n - 1);
                if (i < n && b + kFar < s.events) rows_of(b + kFar, prefetch_row_far);
                if (i < n && b + kNear < s.events) rows_of(b + kNear, prefetch_row);
                const float* negative = s.negative_rows[b] ? s.negative_rows[b] : s.positives[b];
                positive16[i - half] = dot_lanes<kDim>(s.queries[b], s.positives[b], D);
                negative16[i - half] = dot_lanes<kDim>(s.queries[b], negative, D);
            }
            float positives[8], negatives[8];
            sum8(positive16, positives);
            sum8(negative16, negatives);
            for (int64_t i = half; i < std::min(n, half + 8); ++i) {
                const float *positive = s.positives[from + i], *negative = s.negative_rows[from + i];
                if (!negative || negative == positive) continue;
                margins[i] = positives[i - half] + positive[D] - (negatives[i - half] + negative[D]);
                keep[i] = s.weights ? s.weights[from + i] : 1.0f;
            }
        }
        V16 losses;
        const V16 grads = mul(miss16(load(margins), &losses), load(keep));
        store(s.losses + from, mul(losses, load(keep)), n);
        store(s.negative_coefs + from, grads, n);
        store(s.positive_coefs + from, mul(grads, set1(-1.0f)), n);
        float coefs[16];
        store(coefs, grads);
        for (int64_t i = 0; i < n; ++i) {
            const float *positive = s.positives[from + i], *negative = s.negative_rows[from + i];
            float* grad = s.query_grads + (from + i) * s.grad_stride;
            const V16 up = set1(-coefs[i]), down = set1(coefs[i]), zero = set1(0.0f);
            for (int64_t d = 0; d < D; d += 16) {
                const V16 pushed = negative ? fma(down, load(negative + d, D - d), zero) : zero;
                store(grad + d, fma(up, load(positive + d, D - d), pushed), D - d);
            }
        }
    }
}

void bpr_grads(const LossStep& s) {
    if (s.negatives == 1) ROWTIDE_FOR_DIM(s.dim, bpr_pairs_dim, s)
    ROWTIDE_FOR_DIM(s.dim, bpr_grads_dim, s)
}

// As in combine(), four chains side by side where there are as many.
void move_mean(float* mean, const float* const* rows, const float* rates, int64_t n, int64_t dim) {
    const auto moved = [](V16 m, float rate, const float* x, int64_t width) {
        return fma(set1(rate), sub(load(x, width), m), m);
    };
    int64_t d = 0;
    for (; d + 64 <= dim; d += 64) {
        V16 m0 = load(mean + d), m1 = load(mean + d + 16), m2 = load(mean + d + 32), m3 = load(mean + d + 48);
        for (int64_t i = 0; i < n; ++i) {
            m0 = moved(m0, rates[i], rows[i] + d, 16);
            m1 = moved(m1, rates[i], rows[i] + d + 16, 16);
            m2 = moved(m2, rates[i], rows[i] + d + 32, 16);
            m3 = moved(m3, rates[i], rows[i] + d + 48, 16);
        }
        store(mean + d, m0);
        store(mean + d + 16, m1);
        store(mean + d + 32, m2);
        store(mean + d + 48, m3);
    }
    for (; d < dim; d += 16) {
        V16 m = load(mean + d, dim - d);
        for (int64_t i = 0; i < n; ++i) m = moved(m, rates[i], rows[i] + d, dim - d);
        store(mean + d, m, dim - d);
    }
}

void stream_row(float* to, const float* from, int64_t dim) {
    for (int64_t d = 0; d < dim; d += 16) stream(to + d, load(from + d, dim - d));
}

template <int64_t kDim>
void score_range_dim(const float* query, int64_t dim, const ScoreBlock& b, int64_t from, int64_t to, float* scores) {
    V16 lanes[8];
    int64_t i = from;
    for (; i + 8 <= to; i += 8) {
        ROWTIDE_UNROLL(8)
        for (int j = 0; j < 8; ++j) {
            lanes[j] = dot_lanes<kDim>(query, b.vectors + (i + j) * b.stride, dim);
            // Row after row, for the compiler would take them block by block, and the hardware's prefetcher would not
            // see through it: 19.4 ms for 1 M items with AVX-512, where AVX2's rows in order took 9.7.
            asm volatile("" ::: "memory");
        }
        float dots[8];
        sum8(lanes, dots);
        for (int j = 0; j < 8; ++j) scores[i - from + j] = dots[j] + b.biases[i + j];
    }
    for (; i < to; ++i) scores[i - from] = dot<kDim>(query, b.vectors + i * b.stride, dim) + b.biases[i];
}

void score_range(const float* query, int64_t dim, const ScoreBlock& b, int64_t from, int64_t to, float* scores) {
    ROWTIDE_FOR_DIM(dim, score_range_dim, query, dim, b, from, to, scores)
}

// A power of two that brings the largest of x into [1, 4); 0 where x is all zeros.
inline float scale_of(const float* x, int64_t dim) {
    V16 top16 = set1(0.0f);
    for (int64_t d = 0; d < dim; d += 16) {
        const V16 v = load(x + d, dim - d);
        top16 = max(max(v, sub(set1(0.0f), v)), top16);
    }
    float tops[16];
    store(tops, top16);
    float top = 0.0f;
    for (float t : tops) top = t > top ? t : top;
    if (top == 0.0f) return 0.0f;
    const uint32_t exponent = __builtin_bit_cast(uint32_t, top) >> 23;
    return __builtin_bit_cast(float, (exponent < 253 ? 254 - exponent : 1) << 23);
}

void unit(const float* x, int64_t dim, float* out) {
    const V16 scale = set1(scale_of(x, dim));
    V16 squares = set1(0.0f);
    for (int64_t d = 0; d < dim; d += 16) {
        const V16 v = mul(load(x + d, dim - d), scale);
        store(out + d, v, dim - d);
        squares = fma(v, v, squares);
    }
    const float square = sum(squares);
    const V16 norm = set1(square == 0.0f ? 1.0f : __builtin_sqrtf(square));
    for (int64_t d = 0; d < dim; d += 16) store(out + d, div(load(out + d, dim - d), norm), dim - d);
}

// Of an item whose squares over- or underflow: scaled first, which changes no other bit.
inline float scaled_cosine(const float* query, const float* item, int64_t dim) {
    const V16 scale = set1(scale_of(item, dim));
    V16 dots = set1(0.0f), squares = dots;
    for (int64_t d = 0; d < dim; d += 16) {
        const V16 v = mul(load(item + d, dim - d), scale);
        dots = fma(load(query + d, dim - d), v, dots);
        squares = fma(v, v, squares);
    }
    const float square = sum(squares);
    return square == 0.0f ? 0.0f : sum(dots) / __builtin_sqrtf(square);
}

// Dot product and squared norm in one pass over the item, so that both are of the same moment.
template <int64_t kDim>
void cosine_range_dim(const float* query, int64_t dim, const ScoreBlock& b, int64_t from, int64_t to, float* scores) {
    constexpr int64_t kRun = 8;
    const int64_t D = kDim ? kDim : dim;
    for (int64_t i = from; i < to; i += kRun) {
        const int64_t n = std::min(kRun, to - i);
        V16 dots16[kRun], squares16[kRun];
        for (int64_t j = 0; j < kRun; ++j) {
            const float* item = b.vectors + (i + std::min(j, n - 1)) * b.stride;
            V16 dot = set1(0.0f), square = dot;
            for (int64_t d = 0; d < D; d += 16) {
                const V16 v = load(item + d, D - d);
                dot = fma(load(query + d, D - d), v, dot);
                square = fma(v, v, square);
            }
            dots16[j] = dot;
            squares16[j] = square;
        }
        float dots[kRun], squares[kRun];
        sum8(dots16, dots);
        sum8(squares16, squares);
        for (int64_t j = 0; j < n; ++j) {
            const bool plain = squares[j] > 0x1p-80f && squares[j] < 0x1p80f;
            const float c =
                plain ? dots[j] / __builtin_sqrtf(squares[j]) : scaled_cosine(query, b.vectors + (i + j) * b.stride, D);
            scores[i + j - from] = c > 1.0f ? 1.0f : c < -1.0f ? -1.0f : c;
        }
    }
}

void cosine_range(const float* query, int64_t dim, const ScoreBlock& b, int64_t from, int64_t to, float* scores) {
    ROWTIDE_FOR_DIM(dim, cosine_range_dim, query, dim, b, from, to, scores)
}

// Again, until no writer was inside meanwhile.
template <class Range>
inline void of_one_moment(const ScoreBlock& b, int64_t from, Range range) {
    if (!b.versions) return range();
    const auto& version = b.versions[from / kItemsPerVersion];
    for (int64_t looks = 0;; wait_for_writer(&looks)) {
        const uint32_t before = version.load(std::memory_order_acquire);
        if (before & 1) continue;
        {
            const SeqlockRead read;
            range();
        }
        std::atomic_thread_fence(std::memory_order_acquire);
        if (version.load(std::memory_order_relaxed) == before) return;
    }
}

void score_items(const float* query, int64_t dim, const ScoreBlock& b, int64_t from, int64_t to, float* scores) {
    of_one_moment(b, from, [&] { score_range(query, dim, b, from, to, scores); });
}

void cosine_items(const float* query, int64_t dim, const ScoreBlock& b, int64_t from, int64_t to, float* scores) {
    of_one_moment(b, from, [&] { cosine_range(query, dim, b, from, to, scores); });
}

bool any_over(const float* scores, int64_t n, float threshold) {
    const V16 t = set1(threshold);
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        if (any_at_least(load(scores + i), t)) return true;
    for (; i < n; ++i)
        if (scores[i] >= threshold) return true;
    return false;
}

}  // namespace
}  // namespace ISA

namespace ISA {
namespace {
constexpr int kStepRun = 8, kQueryBlocks = 4;  // rows, blocks of sixteen floats that a strand has in hand at once
inline void sum_run(const V16* lanes, float* sums) { sum8(lanes, sums); }
}  // namespace
}  // namespace ISA

#include "learn_steps_impl.h"
#include "pointwise_impl.h"
#include "update_rows_impl.h"

namespace ISA {
namespace {

template <int64_t kDim>
int64_t learn_step_dim(const Steps& steps, int64_t step, const StepSpace& space, const StepTeam& team) {
    return learn_one_step<kDim>(steps, step, space, team);
}

int64_t learn_step(const Steps& steps, int64_t step, const StepSpace& space, const StepTeam& team) {
    ROWTIDE_FOR_DIM(steps.dim, learn_step_dim, steps, step, space, team)
}

}  // namespace
}  // namespace ISA

#undef ROWTIDE_FOR_DIM

namespace ISA {

Kernels table() {
    return {
        .name = nullptr,
        .pool_bag = pool_bag,
        .grads = {softmax_grads, bpr_grads, logistic_grads, squared_grads},
        .update_groups = update_groups,
        .learn_step = learn_step,
        .ln = log1,
        .move_mean = move_mean,
        .stream_row = stream_row,
        .score_items = score_items,
        .unit = unit,
        .cosine_items = cosine_items,
        .any_at_least = any_over,
    };
}

}  // namespace ISA
