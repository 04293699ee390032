// What kernels compute with lanes: exp, log, dot products, sums of rows. A part of isa/table_impl.h, and of
// cuda/learn_steps.cu: each includes it over its own V16.
namespace ISA {
namespace {

// e^x after Cody and Waite: x = n ln 2 + r, |r| <= ln 2 / 2, a polynomial of degree 6 in r. 0 below -87.3; NaN stays.
// The largest error seen is 1.2e-7 relative.
ROWTIDE_LANES V16 exp16(V16 x) {
    const V16 lowest = set1(-87.3f), shift = set1(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    const V16 safe = select_less(x, lowest, lowest, select_less(set1(88.0f), x, set1(88.0f), x));
    const V16 n = sub(fma(safe, set1(1.44269504f), shift), shift);
    V16 r = fma(n, set1(-0.693359375f), safe);
    r = fma(n, set1(2.12194440e-4f), r);
    V16 p = set1(1.0f / 720.0f);
    p = fma(p, r, set1(1.0f / 120.0f));
    p = fma(p, r, set1(1.0f / 24.0f));
    p = fma(p, r, set1(1.0f / 6.0f));
    p = fma(p, r, set1(0.5f));
    p = fma(p, r, set1(1.0f));
    p = fma(p, r, set1(1.0f));
    const V16 e = mul(p, exp2_integer(n));
    return select_less(x, lowest, set1(0.0f), e);
}

// ln x for finite x >= 1: m in [0.75, 1.5), the series of 2 atanh((m - 1) / (m + 1)).
ROWTIDE_LANES V16 log16(V16 x) {
    V16 e;
    const V16 m = split_exponent(x, &e);
    const V16 one = set1(1.0f);
    const V16 z = div(sub(m, one), add(m, one));
    const V16 z2 = mul(z, z);
    V16 p = set1(2.0f / 9.0f);
    p = fma(p, z2, set1(2.0f / 7.0f));
    p = fma(p, z2, set1(2.0f / 5.0f));
    p = fma(p, z2, set1(2.0f / 3.0f));
    p = fma(p, z2, set1(2.0f));
    return fma(e, set1(0.693147181f), mul(p, z));
}

ROWTIDE_LANES float log1(float x) { return any_lane(log16(set1(x))); }

// The usual dims are known to the compiler, 0 stands for one that is not.
template <int64_t kDim>
ROWTIDE_LANES V16 dot_lanes(const float* a, const float* b, int64_t dim) {
    const int64_t D = kDim ? kDim : dim;
    V16 acc = set1(0.0f);
    for (int64_t d = 0; d < D; d += 16) acc = fma(load(a + d, D - d), load(b + d, D - d), acc);
    return acc;
}

template <int64_t kDim>
ROWTIDE_LANES float dot(const float* a, const float* b, int64_t dim) {
    return sum(dot_lanes<kDim>(a, b, dim));
}

// acc += c * row, `width` floats of it. Several blocks of sixteen hide the latency of the fma chain; each float has its
// own chain, so how many there are does not change the bits.
template <int kBlocks>
ROWTIDE_LANES void add_scaled(V16* acc, float c, const float* row, int64_t width) {
    const V16 c16 = set1(c);
    ROWTIDE_UNROLL(4)
    for (int i = 0; i < kBlocks; ++i) acc[i] = fma(c16, load(row + 16 * i, width - 16 * i), acc[i]);
}

template <int kBlocks>
ROWTIDE_LANES void store_blocks(float* out, const V16* acc, int64_t width) {
    ROWTIDE_UNROLL(4)
    for (int i = 0; i < kBlocks; ++i) store(out + 16 * i, acc[i], width - 16 * i);
}

}  // namespace
}  // namespace ISA
