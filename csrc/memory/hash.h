// One hash for all: of ids in the index, of items in a history, of what is drawn.
#pragma once
#include <cstdint>

// The finalizer of SplitMix64 (Steele, Lea, Flood 2014): every input bit moves every output bit.
inline uint64_t mix64(uint64_t x) {
    x += 0x9E3779B97F4A7C15ull;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}
