// Sixteen float lanes in plain C++: the same operations as lanes_avx2.h, with the same bits, slowly.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

namespace portable {

constexpr bool kOneRegister = false;  // holds a V16

struct V16 {
    float v[16];
};

template <class F>
inline V16 each(F f) {
    V16 out;
    for (int i = 0; i < 16; ++i) out.v[i] = f(i);
    return out;
}

inline V16 set1(float x) {
    return each([&](int) { return x; });
}
inline V16 load(const float* p, int64_t n = 16) {
    return each([&](int i) { return i < n ? p[i] : 0.0f; });
}
inline void store(float* p, V16 a, int64_t n = 16) {
    for (int i = 0; i < 16 && i < n; ++i) p[i] = a.v[i];
}
// To memory that is aligned to 64 bytes, past the cache where the CPU can.
inline void stream(float* p, V16 a) { store(p, a); }
inline V16 add(V16 a, V16 b) {
    return each([&](int i) { return a.v[i] + b.v[i]; });
}
inline V16 sub(V16 a, V16 b) {
    return each([&](int i) { return a.v[i] - b.v[i]; });
}
inline V16 mul(V16 a, V16 b) {
    return each([&](int i) { return a.v[i] * b.v[i]; });
}
inline V16 div(V16 a, V16 b) {
    return each([&](int i) { return a.v[i] / b.v[i]; });
}
inline V16 fma(V16 a, V16 b, V16 c) {
    return each([&](int i) { return std::fmaf(a.v[i], b.v[i], c.v[i]); });
}
inline V16 root(V16 a) {
    return each([&](int i) { return std::sqrt(a.v[i]); });
}
inline V16 max(V16 a, V16 b) {
    return each([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline V16 select_less(V16 a, V16 b, V16 x, V16 y) {
    return each([&](int i) { return a.v[i] < b.v[i] ? x.v[i] : y.v[i]; });
}
inline bool any_at_least(V16 a, V16 b) {
    bool any = false;
    for (int i = 0; i < 16; ++i) any |= a.v[i] >= b.v[i];
    return any;
}
inline V16 exp2_integer(V16 n) {
    return each([&](int i) {
        // A NaN or a value out of range gives some number here, as it does in the vector version; callers discard it.
        const bool in_range = n.v[i] >= -127.0f && n.v[i] <= 128.0f;
        const uint32_t bits = static_cast<uint32_t>((in_range ? static_cast<int32_t>(n.v[i]) : 0) + 127) << 23;
        float out;
        std::memcpy(&out, &bits, 4);
        return out;
    });
}
inline V16 split_exponent(V16 x, V16* exponent) {
    return each([&](int i) {
        uint32_t bits;
        std::memcpy(&bits, &x.v[i], 4);
        const int32_t n = static_cast<int32_t>(bits - 0x3f400000u) >> 23;
        exponent->v[i] = static_cast<float>(n);
        bits -= static_cast<uint32_t>(n) << 23;
        float m;
        std::memcpy(&m, &bits, 4);
        return m;
    });
}
inline float sum(V16 a) {
    float t[8], p[4];
    for (int i = 0; i < 8; ++i) t[i] = a.v[i] + a.v[i + 8];
    for (int i = 0; i < 4; ++i) p[i] = t[2 * i] + t[2 * i + 1];
    return (p[0] + p[1]) + (p[2] + p[3]);
}
inline void sum8(const V16* a, float* out) {
    for (int i = 0; i < 8; ++i) out[i] = sum(a[i]);
}
// Of lanes that are all equal.
inline float any_lane(V16 a) { return a.v[0]; }
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

}  // namespace portable
