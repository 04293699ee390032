// What each loss makes of scores: the event's loss, and dL / d score of its items. A part of isa/table_impl.h, and of
// cuda/learn_steps.cu: each includes it over its own V16. The learner's micro-batches (losses_impl.h, pointwise_impl.h)
// and small steps (steps/learn_steps_impl.h) find scores in their own ways and share what stands here, so both give the
// same bits.
namespace ISA {
namespace {

// One event's loss, and dL / d score of its positive.
struct EventLoss {
    float loss, positive_coef;
};

// Sixteen events, each of one pair: their losses, and dL / d score.
struct PairLosses {
    V16 losses, coefs;
};

// sigmoid(-x), and in *loss -ln sigmoid(x), from e^-|x|, which cannot overflow.
ROWTIDE_LANES V16 miss16(V16 x, V16* loss) {
    const V16 zero = set1(0.0f), one = set1(1.0f);
    const V16 minus = sub(zero, x);
    const V16 e = exp16(select_less(x, zero, x, minus));
    *loss = add(log16(add(one, e)), select_less(x, zero, minus, zero));
    return div(select_less(x, zero, one, e), add(one, e));
}

// -ln sigmoid(score) where the value is 1, -ln sigmoid(-score) where it is 0.
ROWTIDE_LANES V16 logistic16(V16 scores, V16 values, V16* losses) {
    const V16 zero = set1(0.0f), half = set1(0.5f);
    const V16 miss = miss16(select_less(half, values, scores, sub(zero, scores)), losses);
    return select_less(half, values, sub(zero, miss), miss);
}

ROWTIDE_LANES V16 squared16(V16 scores, V16 values, V16* losses) {
    const V16 error = sub(scores, values);
    *losses = mul(error, error);
    return add(error, error);
}

// dL / d score of sixteen pairs, unweighted, and in *losses their losses.
ROWTIDE_LANES V16 pointwise16(Loss loss, V16 scores, V16 values, V16* losses) {
    switch (loss) {
        case Loss::logistic:
            return logistic16(scores, values, losses);
        case Loss::squared:
            return squared16(scores, values, losses);
        case Loss::softmax:
        case Loss::bpr:
            break;  // they rank
    }
    __builtin_unreachable();
}

ROWTIDE_LANES PairLosses pointwise_coefs(Loss loss, V16 scores, V16 values, V16 weights) {
    V16 losses;
    const V16 coefs = pointwise16(loss, scores, values, &losses);
    return {mul(losses, weights), mul(coefs, weights)};
}

// The K scores become dL / d score. A masked one is minus infinity and becomes 0.
ROWTIDE_LANES EventLoss softmax_coefs(float* scores, int64_t K, float positive_score, float weight) {
    V16 top16 = set1(positive_score);
    // Lanes past the end must not raise the maximum: they repeat the positive's score.
    for (int64_t k = 0; k < K; k += 16)
        top16 = max(lanes_of([&](int i) { return k + i < K ? scores[k + i] : positive_score; }), top16);
    const float top = largest(top16);
    V16 total16 = set1(0.0f);
    for (int64_t k = 0; k < K; k += 16) {
        const V16 e = exp16(sub(load(scores + k, K - k), set1(top)));
        store(scores + k, e, K - k);
        total16 = add(total16, load(scores + k, K - k));
    }
    const float total = any_lane(exp16(set1(positive_score - top))) + sum(total16);
    const float scale = weight / total;
    for (int64_t k = 0; k < K; k += 16) store(scores + k, mul(load(scores + k, K - k), set1(scale)), K - k);
    // 1 - p(positive) is the share of the negatives: no cancellation when the positive is all but certain.
    return {weight * (log1(total) - (positive_score - top)), -(sum(total16) * scale)};
}

// The K scores become dL / d score; 0 where is_masked(k). The others share the event's weight.
template <class IsMasked>
ROWTIDE_LANES EventLoss bpr_coefs(float* scores, int64_t K, float positive_score, float weight, IsMasked is_masked) {
    int64_t live = 0;
    for (int64_t k = 0; k < K; ++k) live += !is_masked(k);
    const V16 zero = set1(0.0f), share = set1(live ? weight / static_cast<float>(live) : 0.0f);
    V16 loss16 = zero, total16 = zero;
    for (int64_t k = 0; k < K; k += 16) {
        const V16 is_live = lanes_of([&](int i) { return k + i < K && !is_masked(k + i) ? 1.0f : 0.0f; });
        const V16 keep = select_less(zero, is_live, share, zero);
        const V16 margin = sub(set1(positive_score), load(scores + k, K - k));
        V16 loss;
        const V16 grad = mul(miss16(select_less(zero, is_live, margin, zero), &loss), keep);
        loss16 = fma(loss, keep, loss16);
        total16 = add(total16, grad);
        store(scores + k, grad, K - k);
    }
    return {sum(loss16), -sum(total16)};
}

// `width` floats of the gradient of an event's query: of its negatives in their order, then of its positive. `walk`
// calls its argument for each negative with (coefficient, row).
template <int kBlocks, class Walk>
ROWTIDE_LANES void ranking_query_grad(const Walk& walk, float positive_coef, const float* positive, int64_t width,
                                      float* out) {
    V16 acc[kBlocks];
    ROWTIDE_UNROLL(4)
    for (int i = 0; i < kBlocks; ++i) acc[i] = set1(0.0f);
    walk([&](float c, const float* row) { add_scaled<kBlocks>(acc, c, row, width); });
    add_scaled<kBlocks>(acc, positive_coef, positive, width);
    store_blocks<kBlocks>(out, acc, width);
}

// The same where an event is one pair.
template <int kBlocks>
ROWTIDE_LANES void pointwise_query_grad(float coef, const float* positive, int64_t width, float* out) {
    V16 acc[kBlocks];
    ROWTIDE_UNROLL(4)
    for (int i = 0; i < kBlocks; ++i) acc[i] = mul(set1(coef), load(positive + 16 * i, width - 16 * i));
    store_blocks<kBlocks>(out, acc, width);
}

}  // namespace
}  // namespace ISA
