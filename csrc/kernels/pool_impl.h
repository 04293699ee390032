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

// out = sum over t of coefs[t] * rows[t], in the order of t; null rows are left out. Four blocks of 16 run side by side
// to hide the latency of the fma chain; each float has its own chain, so the blocking does not change the bits.
void combine(const float* const* rows, const float* coefs, int64_t n, int64_t dim, float* out) {
    int64_t d = 0;
    for (; d + 64 <= dim; d += 64) {
        V16 a0 = set1(0.0f), a1 = a0, a2 = a0, a3 = a0;
        for (int64_t t = 0; t < n; ++t) {
            if (!rows[t]) continue;
            const float* r = rows[t] + d;
            const V16 c = set1(coefs[t]);
            a0 = fma(c, load(r), a0);
            a1 = fma(c, load(r + 16), a1);
            a2 = fma(c, load(r + 32), a2);
            a3 = fma(c, load(r + 48), a3);
        }
        store(out + d, a0);
        store(out + d + 16, a1);
        store(out + d + 32, a2);
        store(out + d + 48, a3);
    }
    for (; d < dim; d += 16) {
        V16 acc = set1(0.0f);
        for (int64_t t = 0; t < n; ++t)
            if (rows[t]) acc = fma(set1(coefs[t]), load(rows[t] + d, dim - d), acc);
        store(out + d, acc, dim - d);
    }
}

void pool_bag(const float* const* rows, const float* weights, int64_t n, int64_t dim, float* out) {
    if (weights) return combine(rows, weights, n, dim, out);
    for (int64_t d = 0; d < dim; d += 16) {
        V16 acc = set1(0.0f);
        for (int64_t t = 0; t < n; ++t) acc = add(acc, load(rows[t] + d, dim - d));
        store(out + d, acc, dim - d);
    }
}

// As in combine(), four chains side by side where there are as many.
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
