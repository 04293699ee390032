#include "disk/seal.h"

#include <bit>
#include <cstring>

#include "disk/crc32c.h"

static_assert(std::endian::native == std::endian::little, "the CRC and the numbers in values are little-endian");

namespace {

constexpr uint64_t kSign = uint64_t{1} << 63;  // flipped, so that negative ids sort before the others

}  // namespace

void write_row_key(uint8_t table, int64_t id, uint8_t* out) {
    const uint64_t wide = __builtin_bswap64(static_cast<uint64_t>(id) ^ kSign);
    out[0] = table;
    std::memcpy(out + 1, &wide, sizeof wide);
}

int64_t read_key_id(const uint8_t* key) {
    uint64_t wide;
    std::memcpy(&wide, key + 1, sizeof wide);
    return static_cast<int64_t>(__builtin_bswap64(wide) ^ kSign);
}

void write_value(const void* key, size_t key_bytes, const void* payload, size_t n, uint8_t* out) {
    if (n) std::memcpy(out, payload, n);
    const uint32_t crc = crc32c(out, n, crc32c(key, key_bytes));
    std::memcpy(out + n, &crc, sizeof crc);
}

bool value_holds(const void* key, size_t key_bytes, const uint8_t* value, size_t bytes) {
    if (bytes < kCrcBytes) return false;
    uint32_t stored;
    std::memcpy(&stored, value + bytes - kCrcBytes, sizeof stored);
    return stored == crc32c(value, bytes - kCrcBytes, crc32c(key, key_bytes));
}
