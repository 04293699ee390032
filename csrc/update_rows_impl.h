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

inline bool finite(float x) { return x - x == 0.0f; }

inline void copy(float* to, const float* from, int64_t n) {
    for (int64_t d = 0; d < n; d += 16) store(to + d, load(from + d, n - d), n - d);
}

// The steps below: row and gradient in, row changed, or left as it was and false if something is not finite. `check`
// is a lane of zeros unless a number that it has seen is infinite or NaN.

// Row-wise Adagrad: one sum of squares for the vector, one for the bias.
template <int64_t kDim>
inline bool adagrad(const UpdateStep& s, float* row, float* grad, float bias_grad, float*, float*) {
    const int64_t D = kDim ? kDim : s.dim;
    V16 squares = set1(0.0f);
    for (int64_t d = 0; d < D; d += 16) {
        const V16 g = load(grad + d, D - d);
        squares = fma(g, g, squares);
    }
    const float state = row[D + 1] + sum(squares) * (1.0f / static_cast<float>(D));
    const float step = s.lr / (__builtin_sqrtf(state) + kEps);
    float bias = row[D], bias_state = row[D + 2];
    if (s.bias_coefs) {
        bias_state = bias_state + bias_grad * bias_grad;
        bias = bias - s.lr * bias_grad / (__builtin_sqrtf(bias_state) + kEps);
    }
    V16 check = set1(0.0f);
    for (int64_t d = 0; d < D; d += 16) {
        const int64_t n = D - d;
        const V16 w = fma(set1(-step), load(grad + d, n), load(row + d, n));
        check = fma(w, set1(0.0f), check);
        store(grad + d, w, n);
    }
    if (!finite(sum(check)) || !finite(state) || !finite(bias) || !finite(bias_state)) return false;
    copy(row, grad, D);
    row[D] = bias;
    row[D + 1] = state;
    row[D + 2] = bias_state;
    return true;
}

// Adam, each row its own: moments and their correction move when the row has a step. The correction 1 - beta^t follows
// the recurrence of the moments, fed with ones: no power and no cancellation.
template <int64_t kDim>
inline bool adam(const UpdateStep& s, float* row, float* grad, float bias_grad, float* first, float* second) {
    const int64_t D = kDim ? kDim : s.dim;
    constexpr float kRest1 = 0.1f, kRest2 = 0.001f;  // 1 - beta, without the rounding of beta
    float* state = row + D + 1;
    float *m = state + 4, *v = state + 4 + D;
    const float correction1 = kBeta1 * state[2] + kRest1, correction2 = kBeta2 * state[3] + kRest2;
    const float step = s.lr / correction1, inverse2 = 1.0f / correction2;
    float bias = row[D], bias_m = state[0], bias_v = state[1];
    if (s.bias_coefs) {
        bias_m = kBeta1 * bias_m + kRest1 * bias_grad;
        bias_v = kBeta2 * bias_v + kRest2 * (bias_grad * bias_grad);
        bias = bias - step * bias_m / (__builtin_sqrtf(bias_v * inverse2) + kEps);
    }
    V16 check = set1(0.0f);
    for (int64_t d = 0; d < D; d += 16) {
        const int64_t n = D - d;
        const V16 g = load(grad + d, n);
        const V16 m1 = fma(set1(kBeta1), load(m + d, n), mul(set1(kRest1), g));
        const V16 v1 = fma(set1(kBeta2), load(v + d, n), mul(set1(kRest2), mul(g, g)));
        const V16 down = div(m1, add(root(mul(v1, set1(inverse2))), set1(kEps)));
        const V16 w = fma(set1(-step), down, load(row + d, n));
        check = fma(w, set1(0.0f), fma(m1, set1(0.0f), fma(v1, set1(0.0f), check)));
        store(grad + d, w, n);
        store(first + d, m1, n);
        store(second + d, v1, n);
    }
    if (!finite(sum(check)) || !finite(bias) || !finite(bias_m) || !finite(bias_v) || !finite(correction1) ||
        !finite(correction2))
        return false;
    copy(row, grad, D);
    copy(m, first, D);
    copy(v, second, D);
    row[D] = bias;
    state[0] = bias_m;
    state[1] = bias_v;
    state[2] = correction1;
    state[3] = correction2;
    return true;
}

template <int64_t kDim>
inline bool sgd(const UpdateStep& s, float* row, float* grad, float bias_grad, float*, float*) {
    const int64_t D = kDim ? kDim : s.dim;
    const float bias = s.bias_coefs ? row[D] - s.lr * bias_grad : row[D];
    V16 check = set1(0.0f);
    for (int64_t d = 0; d < D; d += 16) {
        const int64_t n = D - d;
        const V16 w = fma(set1(-s.lr), load(grad + d, n), load(row + d, n));
        check = fma(w, set1(0.0f), check);
        store(grad + d, w, n);
    }
    if (!finite(sum(check)) || !finite(bias)) return false;
    copy(row, grad, D);
    row[D] = bias;
    return true;
}

template <int64_t kDim, class Step>
inline int64_t step_groups(const UpdateStep& s, const Groups& groups, int64_t from, int64_t to, float* const* rows,
                           float* scratch, Step step) {
    const int64_t D = kDim ? kDim : s.dim, padded = (D + 15) / 16 * 16;
    const int64_t floats = D + 1 + state_floats(s.optimizer, D);
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
        skipped += !step(s, row, grad, bias_grad, part, part + padded);
    }
    return skipped;
}

template <int64_t kDim>
int64_t update_groups_dim(const UpdateStep& s, const Groups& groups, int64_t from, int64_t to, float* const* rows,
                          float* scratch) {
    switch (s.optimizer) {
        case Optimizer::adagrad:
            return step_groups<kDim>(s, groups, from, to, rows, scratch, adagrad<kDim>);
        case Optimizer::adam:
            return step_groups<kDim>(s, groups, from, to, rows, scratch, adam<kDim>);
        case Optimizer::sgd:
            return step_groups<kDim>(s, groups, from, to, rows, scratch, sgd<kDim>);
    }
    __builtin_unreachable();
}

int64_t update_groups(const UpdateStep& s, const Groups& groups, int64_t from, int64_t to, float* const* rows,
                      float* scratch) {
    ROWTIDE_FOR_DIM(s.dim, update_groups_dim, s, groups, from, to, rows, scratch)
}

}  // namespace
}  // namespace ISA
