// Weighted sums of rows, the running mean, and what the kernels share: prefetching, and one template for each dim. A
// part of isa/table_impl.h, which includes it.
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

// out = sum over t of coefs[t] * rows[t], in the order of t; null rows are left out.
template <int64_t kDim, class Vec>
[[gnu::always_inline]] inline void combine(const float* const* rows, const float* coefs, int64_t n, int64_t dim,
                                           Vec* out) {
    const int64_t D = kDim ? kDim : dim;
    int64_t d = 0;
    for (; d + 64 <= D; d += 64) {
        V16 acc[4] = {set1(0.0f), set1(0.0f), set1(0.0f), set1(0.0f)};
        for (int64_t t = 0; t < n; ++t)
            if (rows[t]) add_scaled<4>(acc, coefs[t], rows[t] + d, 64);
        for (int i = 0; i < 4; ++i) out->set(d + 16 * i, acc[i], 16);
    }
    for (; d < D; d += 16) {
        V16 acc = set1(0.0f);
        for (int64_t t = 0; t < n; ++t)
            if (rows[t]) add_scaled<1>(&acc, coefs[t], rows[t] + d, D - d);
        out->set(d, acc, D - d);
    }
}

void pool_bag(const float* const* rows, const float* weights, int64_t n, int64_t dim, float* out) {
    if (weights) {
        Vector<0> sum(out);
        return combine<0>(rows, weights, n, dim, &sum);
    }
    for (int64_t d = 0; d < dim; d += 16) {
        V16 acc = set1(0.0f);
        for (int64_t t = 0; t < n; ++t) acc = add(acc, load(rows[t] + d, dim - d));
        store(out + d, acc, dim - d);
    }
}

template <int64_t kDim>
void dots_dim(const float* query, const float* const* rows, int64_t n, int64_t dim, float* out) {
    V16 lanes[kStepRun];
    float sums[kStepRun];
    for (int64_t from = 0; from < n; from += kStepRun) {
        for (int i = 0; i < kStepRun; ++i)
            lanes[i] = dot_lanes<kDim>(query, from + i < n ? rows[from + i] : query, dim);
        sum_run(lanes, sums);
        for (int i = 0; i < kStepRun && from + i < n; ++i) out[from + i] = sums[i];
    }
}

void dots(const float* query, const float* const* rows, int64_t n, int64_t dim, float* out) {
    ROWTIDE_FOR_DIM(dim, dots_dim, query, rows, n, dim, out)
}

// Four chains side by side where there are as many.
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

}  // namespace
}  // namespace ISA
