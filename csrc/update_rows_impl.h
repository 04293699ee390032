// Sums of the gradients of equal rows, and one step of the optimizer. A part of kernels_impl.h, which includes it.
namespace ISA {
namespace {

// A vector under way. With AVX-512, and a dim that the compiler knows, in registers: in scratch memory no row was
// worked on before the last one was done, it seems because a load of 64 bytes that were just stored waits until the
// store has left for the cache (Zen 4), and so for all before it. Else in scratch memory, which halves of 32 bytes pass
// unharmed.
template <int64_t kDim, bool kHeld = (kDim > 0 && kOneRegister)>
struct Vector {
    explicit Vector(float*) {}
    V16 get(int64_t d, int64_t) const { return lanes[d / 16]; }
    void set(int64_t d, V16 x, int64_t) { lanes[d / 16] = x; }
    V16 lanes[kDim / 16];
};

template <int64_t kDim>
struct Vector<kDim, false> {
    explicit Vector(float* scratch) : at(scratch) {}
    V16 get(int64_t d, int64_t n) const { return load(at + d, n); }
    void set(int64_t d, V16 x, int64_t n) { store(at + d, x, n); }
    float* at;
};

// combine() into such a vector.
template <int64_t kDim>
[[gnu::always_inline]] inline void combine_into(const float* const* rows, const float* coefs, int64_t n, int64_t dim,
                                                Vector<kDim>* out) {
    if constexpr (!(kDim > 0 && kOneRegister)) {
        combine(rows, coefs, n, dim, out->at);
    } else {
        for (int64_t d = 0; d < kDim; d += 64) {
            V16 a0 = set1(0.0f), a1 = a0, a2 = a0, a3 = a0;
            for (int64_t t = 0; t < n; ++t) {
                const float* r = rows[t] + d;
                const V16 c = set1(coefs[t]);
                a0 = fma(c, load(r), a0);
                a1 = fma(c, load(r + 16), a1);
                a2 = fma(c, load(r + 32), a2);
                a3 = fma(c, load(r + 48), a3);
            }
            out->set(d, a0, 16);
            out->set(d + 16, a1, 16);
            out->set(d + 32, a2, 16);
            out->set(d + 48, a3, 16);
        }
    }
}

// The gradient of one group's vector into `grad`, of its bias as the result: segments of terms, each summed in order.
template <int64_t kDim>
[[gnu::always_inline]] inline float sum_terms(const UpdateStep& s, const Groups& groups, int64_t g, Vector<kDim>* grad,
                                              Vector<kDim>* part) {
    const int64_t D = kDim ? kDim : s.dim;
    uint32_t t = groups.head[static_cast<size_t>(g)];
    if (groups.next[t] == Groups::kEnd) {
        const V16 c = set1(s.coefs[t]);
        for (int64_t d = 0; d < D; d += 16) grad->set(d, mul(c, load(s.sources[t] + d, D - d)), D - d);
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
        combine_into<kDim>(sources, coefs, n, D, first ? grad : part);
        if (!first)
            for (int64_t d = 0; d < D; d += 16) grad->set(d, add(grad->get(d, D - d), part->get(d, D - d)), D - d);
        bias += bias_part;
    }
    return bias;
}

inline bool finite(float x) { return x - x == 0.0f; }

template <int64_t kDim>
inline void copy(float* to, const Vector<kDim>& from, int64_t dim) {
    const int64_t D = kDim ? kDim : dim;
    for (int64_t d = 0; d < D; d += 16) store(to + d, from.get(d, D - d), D - d);
}

// The steps below: row and gradient in, row changed, or left as it was and false if something is not finite. `check`
// is a lane of zeros unless a number that it has seen is infinite or NaN.

// Row-wise Adagrad: one sum of squares for the vector, one for the bias.
template <int64_t kDim>
[[gnu::always_inline]] inline bool adagrad(const UpdateStep& s, float* row, Vector<kDim>* grad, float bias_grad,
                                           Vector<kDim>*, Vector<kDim>*) {
    const int64_t D = kDim ? kDim : s.dim;
    V16 squares = set1(0.0f);
    for (int64_t d = 0; d < D; d += 16) {
        const V16 g = grad->get(d, D - d);
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
        const V16 w = fma(set1(-step), grad->get(d, n), load(row + d, n));
        check = fma(w, set1(0.0f), check);
        grad->set(d, w, n);
    }
    if (!finite(sum(check)) || !finite(state) || !finite(bias) || !finite(bias_state)) return false;
    copy(row, *grad, D);
    row[D] = bias;
    row[D + 1] = state;
    row[D + 2] = bias_state;
    return true;
}

// Adam, each row its own: moments and their correction move when the row has a step. The correction 1 - beta^t follows
// the recurrence of the moments, fed with ones: no power and no cancellation.
template <int64_t kDim>
[[gnu::always_inline]] inline bool adam(const UpdateStep& s, float* row, Vector<kDim>* grad, float bias_grad,
                                        Vector<kDim>* first, Vector<kDim>* second) {
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
        const V16 g = grad->get(d, n);
        const V16 m1 = fma(set1(kBeta1), load(m + d, n), mul(set1(kRest1), g));
        const V16 v1 = fma(set1(kBeta2), load(v + d, n), mul(set1(kRest2), mul(g, g)));
        const V16 down = div(m1, add(root(mul(v1, set1(inverse2))), set1(kEps)));
        const V16 w = fma(set1(-step), down, load(row + d, n));
        check = fma(w, set1(0.0f), fma(m1, set1(0.0f), fma(v1, set1(0.0f), check)));
        grad->set(d, w, n);
        first->set(d, m1, n);
        second->set(d, v1, n);
    }
    if (!finite(sum(check)) || !finite(bias) || !finite(bias_m) || !finite(bias_v) || !finite(correction1) ||
        !finite(correction2))
        return false;
    copy(row, *grad, D);
    copy(m, *first, D);
    copy(v, *second, D);
    row[D] = bias;
    state[0] = bias_m;
    state[1] = bias_v;
    state[2] = correction1;
    state[3] = correction2;
    return true;
}

template <int64_t kDim>
[[gnu::always_inline]] inline bool sgd(const UpdateStep& s, float* row, Vector<kDim>* grad, float bias_grad,
                                       Vector<kDim>*, Vector<kDim>*) {
    const int64_t D = kDim ? kDim : s.dim;
    const float bias = s.bias_coefs ? row[D] - s.lr * bias_grad : row[D];
    V16 check = set1(0.0f);
    for (int64_t d = 0; d < D; d += 16) {
        const int64_t n = D - d;
        const V16 w = fma(set1(-s.lr), grad->get(d, n), load(row + d, n));
        check = fma(w, set1(0.0f), check);
        grad->set(d, w, n);
    }
    if (!finite(sum(check)) || !finite(bias)) return false;
    copy(row, *grad, D);
    row[D] = bias;
    return true;
}

template <int64_t kDim, class Step>
inline int64_t step_groups(const UpdateStep& s, const Groups& groups, int64_t from, int64_t to, float* const* rows,
                           float* scratch, Step step) {
    const int64_t D = kDim ? kDim : s.dim, padded = (D + 15) / 16 * 16;
    const int64_t floats = D + 1 + state_floats(s.optimizer, D);
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
        Vector<kDim> grad(scratch), first(scratch + padded), second(scratch + 2 * padded);
        float bias_grad = sum_terms<kDim>(s, groups, g, &grad, &first);
        if (s.l2 != 0.0f) {
            bias_grad = bias_grad + s.l2 * row[D];
            for (int64_t d = 0; d < D; d += 16) {
                const int64_t n = D - d;
                grad.set(d, fma(set1(s.l2), load(row + d, n), grad.get(d, n)), n);
            }
        }
        skipped += !step(s, row, &grad, bias_grad, &first, &second);
    }
    return skipped;
}

template <int64_t kDim>
int64_t update_groups_dim(const UpdateStep& s, const Groups& groups, int64_t from, int64_t to, float* const* rows,
                          float* scratch) {
    switch (s.optimizer) {
        case Optimizer::adagrad:
            return step_groups<kDim>(s, groups, from, to, rows, scratch,
                                     [](auto&&... x) { return adagrad<kDim>(x...); });
        case Optimizer::adam:
            return step_groups<kDim>(s, groups, from, to, rows, scratch, [](auto&&... x) { return adam<kDim>(x...); });
        case Optimizer::sgd:
            return step_groups<kDim>(s, groups, from, to, rows, scratch, [](auto&&... x) { return sgd<kDim>(x...); });
    }
    __builtin_unreachable();
}

int64_t update_groups(const UpdateStep& s, const Groups& groups, int64_t from, int64_t to, float* const* rows,
                      float* scratch) {
    ROWTIDE_FOR_DIM(s.dim, update_groups_dim, s, groups, from, to, rows, scratch)
}

}  // namespace
}  // namespace ISA
