// Sixteen float lanes on AVX2 + FMA. lanes_portable.h gives the same operations with the same bits.
// Include only below `#pragma GCC target("avx2,fma")`.
#pragma once
#include <immintrin.h>

#include <cstdint>

namespace avx2 {

constexpr bool kOneRegister = false;  // holds a V16

struct V16 {
    __m256 lo, hi;
};

inline __m256i tail_mask(int64_t n) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), lane);
}
inline V16 set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
// The first n floats at p (16 if n is more); the other lanes are 0 and their memory is not touched.
inline V16 load(const float* p, int64_t n = 16) {
    if (n >= 16) return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
    return {_mm256_maskload_ps(p, tail_mask(n)), _mm256_maskload_ps(p + 8, tail_mask(n - 8))};
}
inline void store(float* p, V16 a, int64_t n = 16) {
    if (n >= 16) {
        _mm256_storeu_ps(p, a.lo);
        _mm256_storeu_ps(p + 8, a.hi);
    } else {
        _mm256_maskstore_ps(p, tail_mask(n), a.lo);
        _mm256_maskstore_ps(p + 8, tail_mask(n - 8), a.hi);
    }
}
// To memory that is aligned to 64 bytes, past the cache.
inline void stream(float* p, V16 a) {
    _mm256_stream_ps(p, a.lo);
    _mm256_stream_ps(p + 8, a.hi);
}
inline V16 add(V16 a, V16 b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
inline V16 sub(V16 a, V16 b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
inline V16 mul(V16 a, V16 b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
inline V16 div(V16 a, V16 b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
inline V16 fma(V16 a, V16 b, V16 c) { return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)}; }
inline V16 root(V16 a) { return {_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)}; }
// a > b ? a : b in each lane, so b where one is NaN.
inline V16 max(V16 a, V16 b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
// a < b ? x : y in each lane.
inline V16 select_less(V16 a, V16 b, V16 x, V16 y) {
    return {_mm256_blendv_ps(y.lo, x.lo, _mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ)),
            _mm256_blendv_ps(y.hi, x.hi, _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ))};
}
inline bool any_at_least(V16 a, V16 b) {
    const __m256 hit = _mm256_or_ps(_mm256_cmp_ps(a.lo, b.lo, _CMP_GE_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_GE_OQ));
    return _mm256_movemask_ps(hit) != 0;
}
// 2^n for lanes that hold integers in [-126, 127].
inline __m256 exp2_integer8(__m256 n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvttps_epi32(n), _mm256_set1_epi32(127)), 23));
}
inline V16 exp2_integer(V16 n) { return {exp2_integer8(n.lo), exp2_integer8(n.hi)}; }
// Positive finite x = m * 2^e with m in [0.75, 1.5): gives m, and e in *exponent.
inline __m256 split_exponent8(__m256 x, __m256* exponent) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i n = _mm256_srai_epi32(_mm256_sub_epi32(bits, _mm256_set1_epi32(0x3f400000)), 23);
    *exponent = _mm256_cvtepi32_ps(n);
    return _mm256_castsi256_ps(_mm256_sub_epi32(bits, _mm256_slli_epi32(n, 23)));
}
inline V16 split_exponent(V16 x, V16* exponent) {
    const __m256 lo = split_exponent8(x.lo, &exponent->lo);
    return {lo, split_exponent8(x.hi, &exponent->hi)};
}
// The fixed tree: lane i + lane i+8, then neighbours, then pairs, then the two halves.
inline float sum(V16 a) {
    const __m256 t = _mm256_add_ps(a.lo, a.hi);
    const __m256 p = _mm256_hadd_ps(t, t);
    const __m256 q = _mm256_hadd_ps(p, p);
    return _mm_cvtss_f32(_mm_add_ss(_mm256_castps256_ps128(q), _mm256_extractf128_ps(q, 1)));
}
// sum() of eight at once, to out[0..7].
inline void sum8(const V16* a, float* out) {
    __m256 t[8];
    for (int i = 0; i < 8; ++i) t[i] = _mm256_add_ps(a[i].lo, a[i].hi);
    const __m256 p01 = _mm256_hadd_ps(t[0], t[1]), p23 = _mm256_hadd_ps(t[2], t[3]);
    const __m256 p45 = _mm256_hadd_ps(t[4], t[5]), p67 = _mm256_hadd_ps(t[6], t[7]);
    const __m256 q0 = _mm256_hadd_ps(p01, p23), q1 = _mm256_hadd_ps(p45, p67);
    const __m256 low = _mm256_permute2f128_ps(q0, q1, 0x20), high = _mm256_permute2f128_ps(q0, q1, 0x31);
    _mm256_storeu_ps(out, _mm256_add_ps(low, high));
}
// Of lanes that are all equal.
inline float any_lane(V16 a) { return _mm256_cvtss_f32(a.lo); }
// Lane i of f(i).
template <class F>
inline V16 lanes_of(F f) {
    float x[16];
    for (int i = 0; i < 16; ++i) x[i] = f(i);
    return load(x);
}
// The largest lane; NaN if the first is NaN, else NaN is passed over.
inline float largest(V16 a) {
    float x[16];
    store(x, a);
    float top = x[0];
    for (float t : x) top = t > top ? t : top;
    return top;
}
// No lane is infinite or NaN, of lanes that cannot overflow when they are added up.
inline bool all_finite(V16 a) {
    const float total = sum(a);
    return total - total == 0.0f;
}
inline float root1(float x) { return __builtin_sqrtf(x); }
// A number that all lanes of one strand have, or would have.
inline void put(float* p, float x) { *p = x; }

}  // namespace avx2
