// softmax and bpr: losses and coefficients of a micro-batch. A part of isa/table_impl.h, which includes it.
namespace ISA {
namespace {

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

}  // namespace
}  // namespace ISA
