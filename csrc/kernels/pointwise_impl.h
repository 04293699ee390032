// logistic and squared: the score of one pair against its value. A part of isa/table_impl.h, which includes it.
namespace ISA {
namespace {

// Rule(scores, values, &losses) gives d loss / d score of sixteen events, unweighted.
template <int64_t kDim, class Rule>
inline void pointwise_grads(const LossStep& s, Rule rule) {
    const int64_t D = kDim ? kDim : s.dim;
    constexpr int64_t kAhead = 6;
    for (int64_t from = 0; from < s.events; from += 16) {
        const int64_t n = std::min<int64_t>(16, s.events - from);
        V16 lanes[16];
        float dots[16], biases[16];
        for (int64_t i = 0; i < 16; ++i) {
            const int64_t b = from + i;
            if (b + kAhead < s.events) {
                prefetch_row(s.queries[b + kAhead], D);
                prefetch_row(s.positives[b + kAhead], D + 1);
            }
            lanes[i] = i < n ? dot_lanes<kDim>(s.queries[b], s.positives[b], D) : set1(0.0f);
            biases[i] = i < n ? s.positives[b][D] : 0.0f;
        }
        sum8(lanes, dots);
        sum8(lanes + 8, dots + 8);
        // Bias first, then offset: the order in which ranking adds them up.
        V16 scores = add(load(dots), load(biases));
        if (s.offsets) scores = add(scores, load(s.offsets + from, n));
        V16 losses;
        V16 coefs = rule(scores, load(s.values + from, n), &losses);
        if (s.weights) {
            const V16 weights = load(s.weights + from, n);
            losses = mul(losses, weights);
            coefs = mul(coefs, weights);
        }
        store(s.losses + from, losses, n);
        store(s.positive_coefs + from, coefs, n);
        for (int64_t b = from; b < from + n; ++b) {
            float* grad = s.query_grads + b * s.grad_stride;
            const V16 c = set1(s.positive_coefs[b]);
            for (int64_t d = 0; d < D; d += 16) store(grad + d, mul(c, load(s.positives[b] + d, D - d)), D - d);
        }
    }
}

template <int64_t kDim>
void logistic_grads_dim(const LossStep& s) {
    pointwise_grads<kDim>(s, logistic16);
}

template <int64_t kDim>
void squared_grads_dim(const LossStep& s) {
    pointwise_grads<kDim>(s, squared16);
}

void logistic_grads(const LossStep& s) { ROWTIDE_FOR_DIM(s.dim, logistic_grads_dim, s) }

void squared_grads(const LossStep& s) { ROWTIDE_FOR_DIM(s.dim, squared_grads_dim, s) }

}  // namespace
}  // namespace ISA
