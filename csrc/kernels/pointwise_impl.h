// Pointwise losses: the score of one pair against its value; and the choice among all losses. A part of
// isa/table_impl.h, which includes it.
namespace ISA {
namespace {

template <int64_t kDim>
void pointwise_grads_dim(const LossTask& s) {
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
        const V16 weights = s.weights ? load(s.weights + from, n) : set1(1.0f);
        const PairLosses out = pointwise_coefs(s.loss, scores, load(s.values + from, n), weights);
        store(s.losses + from, out.losses, n);
        store(s.positive_coefs + from, out.coefs, n);
        for (int64_t b = from; b < from + n; ++b) {
            float* grad = s.query_grads + b * s.grad_stride;
            const float coef = s.positive_coefs[b];
            for (int64_t d = 0; d < D; d += 16) pointwise_query_grad<1>(coef, s.positives[b] + d, D - d, grad + d);
        }
    }
}

void pointwise_grads(const LossTask& s) { ROWTIDE_FOR_DIM(s.dim, pointwise_grads_dim, s) }

void loss_grads(const LossTask& s) {
    if (is_pointwise(s.loss)) return pointwise_grads(s);
    s.loss == Loss::softmax ? softmax_grads(s) : bpr_grads(s);
}

}  // namespace
}  // namespace ISA
