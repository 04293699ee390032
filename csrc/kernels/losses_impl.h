// softmax and bpr: losses and gradients of a micro-batch. A part of isa/table_impl.h, which includes it.
namespace ISA {
namespace {

// The gradient of event b's query, from the coefficients of its positive and of `rows`. Null rows are left out.
template <int64_t kDim>
inline void ranking_grad(const LossTask& s, int64_t b, const float* const* rows) {
    const int64_t D = kDim ? kDim : s.dim;
    const float* coefs = s.negative_coefs + b * s.negatives;
    const float* positive = s.positives[b];
    float* out = s.query_grads + b * s.grad_stride;
    const auto part = [&](auto blocks, int64_t d, int64_t width) {
        const auto negatives = [&](auto add) {
            for (int64_t k = 0; k < s.negatives; ++k)
                if (rows[k]) add(coefs[k], rows[k] + d);
        };
        ranking_query_grad<blocks()>(negatives, s.positive_coefs[b], positive + d, width, out + d);
    };
    int64_t d = 0;
    for (; d + 64 <= D; d += 64) part(std::integral_constant<int, 4>(), d, 64);
    for (; d < D; d += 16) part(std::integral_constant<int, 1>(), d, D - d);
}

// Scores of the K shared negatives go into the event's row of negative_coefs, and become probabilities there.
template <int64_t kDim>
void softmax_grads_dim(const LossTask& s) {
    const int64_t K = s.negatives, D = kDim ? kDim : s.dim;
    constexpr float kMasked = -INFINITY;
    for (int64_t b = 0; b < s.events; ++b) {
        const float* q = s.queries[b];
        const float* positive = s.positives[b];
        float* scores = s.negative_coefs + b * K;
        const float positive_score = dot<kDim>(q, positive, D) + positive[D];
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
                scores[k + i] = row && row != positive ? eight[i] + row[D] : kMasked;
            }
        }
        for (; k < K; ++k) {
            const float* row = s.negative_rows[k];
            scores[k] = row && row != positive ? dot<kDim>(q, row, D) + row[D] : kMasked;
        }
        const EventLoss out = softmax_coefs(scores, K, positive_score, s.weights ? s.weights[b] : 1.0f);
        s.losses[b] = out.loss;
        s.positive_coefs[b] = out.positive_coef;
        ranking_grad<kDim>(s, b, s.negative_rows);
    }
}

void softmax_grads(const LossTask& s) { ROWTIDE_FOR_DIM(s.dim, softmax_grads_dim, s) }

template <int64_t kDim>
void bpr_grads_dim(const LossTask& s) {
    const int64_t K = s.negatives, D = kDim ? kDim : s.dim;
    const auto rows_of = [&](int64_t b, auto prefetch) {
        prefetch(s.queries[b], D);
        prefetch(s.positives[b], D + 3);
        for (int64_t k = 0; k < K; ++k)
            if (s.negative_rows[b * K + k]) prefetch(s.negative_rows[b * K + k], D + 3);
    };
    for (int64_t b = 0; b < s.events; ++b) {
        if (b + kFar < s.events) rows_of(b + kFar, prefetch_row_far);
        if (b + kNear < s.events) rows_of(b + kNear, prefetch_row);
        const float* q = s.queries[b];
        const float* positive = s.positives[b];
        const float* const* rows = s.negative_rows + b * K;
        float* scores = s.negative_coefs + b * K;
        const float positive_score = dot<kDim>(q, positive, D) + positive[D];
        const auto is_masked = [&](int64_t k) { return !rows[k] || rows[k] == positive; };
        for (int64_t k = 0; k < K; ++k) scores[k] = is_masked(k) ? 0.0f : dot<kDim>(q, rows[k], D) + rows[k][D];
        const EventLoss out = bpr_coefs(scores, K, positive_score, s.weights ? s.weights[b] : 1.0f, is_masked);
        s.losses[b] = out.loss;
        s.positive_coefs[b] = out.positive_coef;
        ranking_grad<kDim>(s, b, rows);
    }
}

// The same with one negative: sixteen events at a time, each in its lane.
template <int64_t kDim>
void bpr_pairs_dim(const LossTask& s) {
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
        for (int64_t b = from; b < from + n; ++b) ranking_grad<kDim>(s, b, s.negative_rows + b);
    }
}

void bpr_grads(const LossTask& s) {
    if (s.negatives == 1) ROWTIDE_FOR_DIM(s.dim, bpr_pairs_dim, s)
    ROWTIDE_FOR_DIM(s.dim, bpr_grads_dim, s)
}

float softmax(float* scores, int64_t n, float* positive, float weight) {
    const EventLoss found = softmax_coefs(scores, n, *positive, weight);
    *positive = found.positive_coef;
    return found.loss;
}

}  // namespace
}  // namespace ISA
