// What kernels compute with lanes: exp, log, the rules of logistic and squared, dot products. A part of
// isa/table_impl.h, and of cuda/learn_steps.cu: each includes it over its own V16.
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

}  // namespace
}  // namespace ISA
