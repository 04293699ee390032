// Sixteen float lanes in one AVX-512 register: the same operations as lanes_avx2.h, with the same bits.
// Include only below `#pragma GCC target("avx512f,avx512dq,avx2,fma")`.
#pragma once
#include <immintrin.h>

#include <cstdint>

namespace avx512 {

constexpr bool kOneRegister = true;  // holds a V16

struct V16 {
    __m512 v;
};

inline __mmask16 tail_mask(int64_t n) { return static_cast<__mmask16>(n >= 16 ? 0xFFFF : n <= 0 ? 0 : (1 << n) - 1); }
inline V16 set1(float x) { return {_mm512_set1_ps(x)}; }
// The first n floats at p (16 if n is more); the other lanes are 0 and their memory is not touched.
inline V16 load(const float* p, int64_t n = 16) {
    if (n >= 16) return {_mm512_loadu_ps(p)};
    return {_mm512_maskz_loadu_ps(tail_mask(n), p)};
}
inline void store(float* p, V16 a, int64_t n = 16) {
    if (n >= 16) {
        _mm512_storeu_ps(p, a.v);
    } else {
        _mm512_mask_storeu_ps(p, tail_mask(n), a.v);
    }
}
// To memory that is aligned to 64 bytes, past the cache.
inline void stream(float* p, V16 a) { _mm512_stream_ps(p, a.v); }
inline V16 add(V16 a, V16 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline V16 sub(V16 a, V16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline V16 mul(V16 a, V16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline V16 div(V16 a, V16 b) { return {_mm512_div_ps(a.v, b.v)}; }
inline V16 fma(V16 a, V16 b, V16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline V16 root(V16 a) { return {_mm512_sqrt_ps(a.v)}; }
// a > b ? a : b in each lane, so b where one is NaN.
inline V16 max(V16 a, V16 b) { return {_mm512_max_ps(a.v, b.v)}; }
// a < b ? x : y in each lane.
inline V16 select_less(V16 a, V16 b, V16 x, V16 y) {
    return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), y.v, x.v)};
}
inline bool any_at_least(V16 a, V16 b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ) != 0; }
// 2^n for lanes that hold integers in [-126, 127].
inline V16 exp2_integer(V16 n) {
    const __m512i biased = _mm512_add_epi32(_mm512_cvttps_epi32(n.v), _mm512_set1_epi32(127));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(biased, 23))};
}
// Positive finite x = m * 2^e with m in [0.75, 1.5): gives m, and e in *exponent.
inline V16 split_exponent(V16 x, V16* exponent) {
    const __m512i bits = _mm512_castps_si512(x.v);
    const __m512i n = _mm512_srai_epi32(_mm512_sub_epi32(bits, _mm512_set1_epi32(0x3f400000)), 23);
    exponent->v = _mm512_cvtepi32_ps(n);
    return {_mm512_castsi512_ps(_mm512_sub_epi32(bits, _mm512_slli_epi32(n, 23)))};
}
// The fixed tree: lane i + lane i+8, then neighbours, then pairs, then the two halves.
inline float sum(V16 a) {
    const __m256 t = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
    const __m256 p = _mm256_hadd_ps(t, t);
    const __m256 q = _mm256_hadd_ps(p, p);
    return _mm_cvtss_f32(_mm_add_ss(_mm256_castps256_ps128(q), _mm256_extractf128_ps(q, 1)));
}
// The sums of neighbours of a and b, within each quarter: (a0+a1, a2+a3, b0+b1, b2+b3).
inline __m512 add_neighbours(__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xDD));
}
// sum() of eight at once, to out[0..7].
inline void sum8(const V16* a, float* out) {
    __m512 t[4];  // the first level of the tree, two to a register
    for (int i = 0; i < 4; ++i) {
        const __m512 x = a[2 * i].v, y = a[2 * i + 1].v;
        t[i] = _mm512_add_ps(_mm512_shuffle_f32x4(x, y, 0x44), _mm512_shuffle_f32x4(x, y, 0xEE));
    }
    // Quarters of q: halves of 0 2 4 6, the other halves; halves of 1 3 5 7, the other halves.
    const __m512 q = add_neighbours(add_neighbours(t[0], t[1]), add_neighbours(t[2], t[3]));
    const __m512 s = _mm512_add_ps(q, _mm512_shuffle_f32x4(q, q, 0xB1));
    const __m512i order = _mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 0, 8, 1, 9, 2, 10, 3, 11);
    _mm256_storeu_ps(out, _mm512_castps512_ps256(_mm512_permutexvar_ps(order, s)));
}
// Of lanes that are all equal.
inline float any_lane(V16 a) { return _mm512_cvtss_f32(a.v); }
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

}  // namespace avx512
