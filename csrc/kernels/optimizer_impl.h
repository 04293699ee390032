// One step of each optimizer on one row. A part of isa/table_impl.h, and of cuda/learn_steps.cu: each includes it over
// its own V16.
namespace ISA {
namespace {

ROWTIDE_LANES bool finite(float x) { return x - x == 0.0f; }

// A vector under way: in registers where the dim is known to the compiler, else in the memory that it is given.
template <int64_t kDim>
struct Vector {
    ROWTIDE_LANES explicit Vector(float*) {}
    ROWTIDE_LANES V16 get(int64_t d, int64_t) const { return lanes[d / 16]; }
    ROWTIDE_LANES void set(int64_t d, V16 x, int64_t) { lanes[d / 16] = x; }
    V16 lanes[kDim / 16];
};

template <>
struct Vector<0> {
    ROWTIDE_LANES explicit Vector(float* memory) : at(memory) {}
    ROWTIDE_LANES V16 get(int64_t d, int64_t n) const { return load(at + d, n); }
    ROWTIDE_LANES void set(int64_t d, V16 x, int64_t n) { store(at + d, x, n); }
    float* at;
};

template <int64_t kDim, class Vec>
ROWTIDE_LANES void copy(float* to, const Vec& from, int64_t dim) {
    const int64_t D = kDim ? kDim : dim;
    for (int64_t d = 0; d < D; d += 16) store(to + d, from.get(d, D - d), D - d);
}

struct OptimizerSettings {
    Optimizer optimizer;
    int64_t dim;
    float lr, lr_bias, l2;
    bool learns_bias;
};

// The steps below: row and gradient in; the new row goes `to` where it belongs, or nothing does and the result is false
// if something is not finite. `to` may be the row itself. `grad` then has the new vector. `check` is a lane of zeros
// unless a number that it has seen is infinite or NaN.

// Row-wise Adagrad: one sum of squares for the vector, one for the bias.
template <int64_t kDim, class Vec>
ROWTIDE_LANES bool adagrad(const OptimizerSettings& s, const float* row, float* to, Vec* grad, float bias_grad) {
    const int64_t D = kDim ? kDim : s.dim;
    V16 squares = set1(0.0f);
    for (int64_t d = 0; d < D; d += 16) {
        const V16 g = grad->get(d, D - d);
        squares = fma(g, g, squares);
    }
    const float state = row[D + 1] + sum(squares) * (1.0f / static_cast<float>(D));
    const float step = s.lr / (root1(state) + kEps);
    float bias = row[D], bias_state = row[D + 2];
    if (s.learns_bias) {
        bias_state = bias_state + bias_grad * bias_grad;
        bias = bias - s.lr_bias * bias_grad / (root1(bias_state) + kEps);
    }
    V16 check = set1(0.0f);
    for (int64_t d = 0; d < D; d += 16) {
        const int64_t n = D - d;
        const V16 w = fma(set1(-step), grad->get(d, n), load(row + d, n));
        check = fma(w, set1(0.0f), check);
        grad->set(d, w, n);
    }
    if (!all_finite(check) || !finite(state) || !finite(bias) || !finite(bias_state)) return false;
    copy<kDim>(to, *grad, D);
    put(to + D, bias);
    put(to + D + 1, state);
    put(to + D + 2, bias_state);
    return true;
}

// Adam, each row its own: moments and their correction move when the row has a step. The correction 1 - beta^t follows
// the recurrence of the moments, fed with ones: no power and no cancellation. `room` is for two vectors.
template <int64_t kDim, class Vec>
ROWTIDE_LANES bool adam(const OptimizerSettings& s, const float* row, float* to, Vec* grad, float bias_grad,
                        float* room) {
    const int64_t D = kDim ? kDim : s.dim;
    Vec first(room), second(room + padded_dim(D));
    constexpr float kRest1 = 0.1f, kRest2 = 0.001f;  // 1 - beta, without the rounding of beta
    const float* state = row + D + 1;
    const float *m = state + 4, *v = state + 4 + D;
    const float correction1 = kBeta1 * state[2] + kRest1, correction2 = kBeta2 * state[3] + kRest2;
    const float step = s.lr / correction1, step_bias = s.lr_bias / correction1, inverse2 = 1.0f / correction2;
    float bias = row[D], bias_m = state[0], bias_v = state[1];
    if (s.learns_bias) {
        bias_m = kBeta1 * bias_m + kRest1 * bias_grad;
        bias_v = kBeta2 * bias_v + kRest2 * (bias_grad * bias_grad);
        bias = bias - step_bias * bias_m / (root1(bias_v * inverse2) + kEps);
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
        first.set(d, m1, n);
        second.set(d, v1, n);
    }
    if (!all_finite(check) || !finite(bias) || !finite(bias_m) || !finite(bias_v) || !finite(correction1) ||
        !finite(correction2))
        return false;
    copy<kDim>(to, *grad, D);
    copy<kDim>(to + D + 5, first, D);
    copy<kDim>(to + 2 * D + 5, second, D);
    put(to + D, bias);
    put(to + D + 1, bias_m);
    put(to + D + 2, bias_v);
    put(to + D + 3, correction1);
    put(to + D + 4, correction2);
    return true;
}

template <int64_t kDim, class Vec>
ROWTIDE_LANES bool sgd(const OptimizerSettings& s, const float* row, float* to, Vec* grad, float bias_grad) {
    const int64_t D = kDim ? kDim : s.dim;
    const float bias = s.learns_bias ? row[D] - s.lr_bias * bias_grad : row[D];
    V16 check = set1(0.0f);
    for (int64_t d = 0; d < D; d += 16) {
        const int64_t n = D - d;
        const V16 w = fma(set1(-s.lr), grad->get(d, n), load(row + d, n));
        check = fma(w, set1(0.0f), check);
        grad->set(d, w, n);
    }
    if (!all_finite(check) || !finite(bias)) return false;
    copy<kDim>(to, *grad, D);
    put(to + D, bias);
    return true;
}

// Adds l2 times the row to its gradient, then takes the optimizer's step. `room` is what Adam needs.
template <int64_t kDim, class Vec>
ROWTIDE_LANES bool step_row(const OptimizerSettings& s, const float* row, float* to, Vec* grad, float bias_grad,
                            float* room) {
    const int64_t D = kDim ? kDim : s.dim;
    if (s.l2 != 0.0f) {
        bias_grad = bias_grad + s.l2 * row[D];
        for (int64_t d = 0; d < D; d += 16) {
            const int64_t n = D - d;
            grad->set(d, fma(set1(s.l2), load(row + d, n), grad->get(d, n)), n);
        }
    }
    switch (s.optimizer) {
        case Optimizer::adagrad:
            return adagrad<kDim>(s, row, to, grad, bias_grad);
        case Optimizer::adam:
            return adam<kDim>(s, row, to, grad, bias_grad, room);
        case Optimizer::sgd:
            return sgd<kDim>(s, row, to, grad, bias_grad);
    }
    __builtin_unreachable();
}

}  // namespace
}  // namespace ISA
