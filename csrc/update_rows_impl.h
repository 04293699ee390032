// Sums of the gradients of equal rows, and one step of the optimizer. A part of kernels_impl.h, which includes it.
namespace ISA {
namespace {

// The gradient of one group's vector into `grad`, of its bias as the result: segments of terms, each summed in order.
template <int64_t kDim>
inline float sum_terms(const UpdateStep& s, const Groups& groups, int64_t g, float* grad, float* part) {
    const int64_t D = kDim ? kDim : s.dim;
    uint32_t t = groups.head[static_cast<size_t>(g)];
    if (groups.next[t] == Groups::kEnd) {
        const V16 c = set1(s.coefs[t]);
        for (int64_t d = 0; d < D; d += 16) store(grad + d, mul(c, load(s.sources[t] + d, D - d)), D - d);
        return s.bias_coefs ? s.bias_coefs[t] : 0.0f;
    }
    float bias = 0.0f;
    for (bool first = true; t != Groups::kEnd; first = false) {
        const float* sources[kSegmentTerms];
        float coefs[kSegmentTerms];
        int64_t n = 0;
        float bias_part = 0.0f;
        for (; n < kSegmentTerms && t != Groups::kEnd; ++n, t = groups.next[t]) {
            sources[n] = s.sources[t];
            coefs[n] = s.coefs[t];
            if (s.bias_coefs) bias_part += s.bias_coefs[t];
        }
        combine(sources, coefs, n, D, first ? grad : part);
        if (!first)
            for (int64_t d = 0; d < D; d += 16)
                store(grad + d, add(load(grad + d, D - d), load(part + d, D - d)), D - d);
        bias += bias_part;
    }
    return bias;
}

template <int64_t kDim, class Step>
inline int64_t step_groups(const UpdateStep& s, const Groups& groups, int64_t from, int64_t to, float* const* rows,
                           float* scratch, Step step) {
    const int64_t D = kDim ? kDim : s.dim, padded = (D + 15) / 16 * 16;
    const int64_t floats = D + 1 + state_floats(s.optimizer, D);
    const Rates rates{s.lr, s.bias_coefs != nullptr};
    float* grad = scratch;
    float* part = scratch + padded;
    int64_t skipped = 0;
    for (int64_t g = from; g < to; ++g) {
        if (const int64_t i = g + kFar; i < groups.size()) {
            prefetch_row_far(rows[i], floats);
            prefetch_row_far(s.sources[groups.head[static_cast<size_t>(i)]], D);
        }
        if (const int64_t i = g + kNear; i < groups.size()) {
            prefetch_row(rows[i], floats);
            prefetch_row(s.sources[groups.head[static_cast<size_t>(i)]], D);
        }
        float* row = rows[g];
        float bias_grad = sum_terms<kDim>(s, groups, g, grad, part);
        if (s.l2 != 0.0f) {
            bias_grad = bias_grad + s.l2 * row[D];
            for (int64_t d = 0; d < D; d += 16) {
                const int64_t n = D - d;
                store(grad + d, fma(set1(s.l2), load(row + d, n), load(grad + d, n)), n);
            }
        }
        Vector<0> vector(grad), first(part), second(part + padded);
        skipped += !step(rates, D, row, row, &vector, bias_grad, &first, &second);
    }
    return skipped;
}

template <int64_t kDim>
int64_t update_groups_dim(const UpdateStep& s, const Groups& groups, int64_t from, int64_t to, float* const* rows,
                          float* scratch) {
    switch (s.optimizer) {
        case Optimizer::adagrad:
            return step_groups<kDim>(s, groups, from, to, rows, scratch, adagrad<kDim, Vector<0>>);
        case Optimizer::adam:
            return step_groups<kDim>(s, groups, from, to, rows, scratch, adam<kDim, Vector<0>>);
        case Optimizer::sgd:
            return step_groups<kDim>(s, groups, from, to, rows, scratch, sgd<kDim, Vector<0>>);
    }
    __builtin_unreachable();
}

int64_t update_groups(const UpdateStep& s, const Groups& groups, int64_t from, int64_t to, float* const* rows,
                      float* scratch) {
    ROWTIDE_FOR_DIM(s.dim, update_groups_dim, s, groups, from, to, rows, scratch)
}

}  // namespace
}  // namespace ISA
