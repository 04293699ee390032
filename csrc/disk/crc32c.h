// CRC-32C (Castagnoli, reflected polynomial 0x82F63B78), the checksum of log records and LMDB values.
#pragma once
#include <cstddef>
#include <cstdint>

// The CRC of `n` bytes at `data`, going on from `crc` (0 to start).
uint32_t crc32c(const void* data, size_t n, uint32_t crc = 0);
