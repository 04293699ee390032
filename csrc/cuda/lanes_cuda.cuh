// Sixteen float lanes as the threads of half a warp: the same operations as lanes_avx2.h, with the same bits.
//
// A V16 is one float in each of sixteen threads. All sixteen call a function together; pointers and counts are the same
// in all of them. Every rounding is written out, so nothing is fused that is not meant to be.
#pragma once
#include <cstdint>

#include "kernels/host_device.h"

namespace gpu {

struct V16 {
    float v;
};

ROWTIDE_LANES int lane() { return static_cast<int>(threadIdx.x & 15); }
ROWTIDE_LANES unsigned strand_mask() { return 0xFFFFu << (threadIdx.x & 16); }

ROWTIDE_LANES V16 set1(float x) { return {x}; }
// The first n floats at p (16 if n is more); the other lanes are 0 and their memory is not touched.
ROWTIDE_LANES V16 load(const float* p, int64_t n = 16) { return {lane() < n ? p[lane()] : 0.0f}; }
ROWTIDE_LANES void store(float* p, V16 a, int64_t n = 16) {
    if (lane() < n) p[lane()] = a.v;
}
ROWTIDE_LANES V16 add(V16 a, V16 b) { return {__fadd_rn(a.v, b.v)}; }
ROWTIDE_LANES V16 sub(V16 a, V16 b) { return {__fsub_rn(a.v, b.v)}; }
ROWTIDE_LANES V16 mul(V16 a, V16 b) { return {__fmul_rn(a.v, b.v)}; }
ROWTIDE_LANES V16 div(V16 a, V16 b) { return {__fdiv_rn(a.v, b.v)}; }
ROWTIDE_LANES V16 fma(V16 a, V16 b, V16 c) { return {__fmaf_rn(a.v, b.v, c.v)}; }
ROWTIDE_LANES float root1(float x) { return __fsqrt_rn(x); }
ROWTIDE_LANES V16 root(V16 a) { return {root1(a.v)}; }
// a > b ? a : b in each lane, so b where one is NaN.
ROWTIDE_LANES V16 max(V16 a, V16 b) { return {a.v > b.v ? a.v : b.v}; }
// a < b ? x : y in each lane.
ROWTIDE_LANES V16 select_less(V16 a, V16 b, V16 x, V16 y) { return {a.v < b.v ? x.v : y.v}; }
// 2^n for lanes that hold integers in [-126, 127].
ROWTIDE_LANES V16 exp2_integer(V16 n) { return {__int_as_float((__float2int_rz(n.v) + 127) << 23)}; }
// Positive finite x = m * 2^e with m in [0.75, 1.5): gives m, and e in *exponent.
ROWTIDE_LANES V16 split_exponent(V16 x, V16* exponent) {
    const int bits = __float_as_int(x.v);
    const int n = (bits - 0x3f400000) >> 23;
    exponent->v = static_cast<float>(n);
    return {__int_as_float(bits - n * (1 << 23))};
}
// The fixed tree: lane i + lane i+8, then neighbours, then pairs, then the two halves. In all lanes.
ROWTIDE_LANES float sum(V16 a) {
    float x = a.v;
    for (int other : {8, 1, 2, 4}) x = __fadd_rn(x, __shfl_xor_sync(strand_mask(), x, other));
    return x;
}
// Of lanes that are all equal.
ROWTIDE_LANES float any_lane(V16 a) { return a.v; }
// Lane i of f(i).
template <class F>
ROWTIDE_LANES V16 lanes_of(F f) {
    return {f(lane())};
}
// The largest lane. All are NaN, or none is.
ROWTIDE_LANES float largest(V16 a) {
    float top = a.v;
    for (int other : {8, 4, 2, 1}) {
        const float t = __shfl_xor_sync(strand_mask(), top, other);
        top = t > top ? t : top;
    }
    return top;
}
// No lane is infinite or NaN.
ROWTIDE_LANES bool all_finite(V16 a) { return __all_sync(strand_mask(), a.v - a.v == 0.0f); }
// A number that all lanes of one strand have.
ROWTIDE_LANES void put(float* p, float x) {
    if (lane() == 0) *p = x;
}

}  // namespace gpu
