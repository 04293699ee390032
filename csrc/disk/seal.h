// The keys and values of the cold tier, byte for byte as engine/cold/FORMAT.md gives them.
//
// Key: table (1 byte), id (8 bytes, big-endian, sign bit flipped), for chunks one byte more. Value: payload, then the
// CRC-32C of key and payload (4 bytes, little-endian). Pure functions of their arguments; any thread.
#pragma once
#include <cstddef>
#include <cstdint>

constexpr size_t kRowKeyBytes = 9;
constexpr size_t kChunkKeyBytes = 10;
constexpr size_t kCrcBytes = 4;

void write_row_key(uint8_t table, int64_t id, uint8_t* out);

// The id in a row key or chunk key, whose table byte has been looked at.
int64_t read_key_id(const uint8_t* key);

// Writes payload and CRC: n + 4 bytes at `out`.
void write_value(const void* key, size_t key_bytes, const void* payload, size_t n, uint8_t* out);

// Whether `bytes` bytes at `value` are a payload followed by its right CRC. Touches nothing if they are too few.
bool value_holds(const void* key, size_t key_bytes, const uint8_t* value, size_t bytes);
