// What is drawn at random, negatives and the noise of new rows: pure functions of their keys, the same on every
// machine.
#pragma once
#include <cstdint>

#include "memory/hash.h"

// Draw number `draw` of event `seq`, uniform over [0, n).
inline uint64_t draw_below(uint64_t seed, uint64_t seq, uint64_t draw, uint64_t n) {
    const uint64_t x = mix64(mix64(mix64(seed) ^ seq) + draw);
    return static_cast<uint64_t>((static_cast<unsigned __int128>(x) * n) >> 64);
}

// Negative k of the K of a step whose first event has `seq`, among `known` items: an ordinal, or -1. Fewer items than
// negatives: every item once. The positive is masked later, by its row.
inline int64_t negative_ordinal(uint64_t seed, uint64_t seq, int64_t k, int64_t K, int64_t known) {
    if (known <= K) return k < known ? k : -1;
    return static_cast<int64_t>(draw_below(seed, seq, static_cast<uint64_t>(k), static_cast<uint64_t>(known)));
}

// Uniform over [-1, 1): coordinate `d` of the new row `id` of a table.
inline float noise(uint64_t seed, uint64_t table, int64_t id, int64_t d) {
    const uint64_t x = mix64(mix64(mix64(seed ^ (table << 56)) ^ static_cast<uint64_t>(id)) + static_cast<uint64_t>(d));
    return static_cast<float>(static_cast<int32_t>(x >> 32)) * 0x1p-31f;
}
