// The layout of a row, and rows by slot.
//
// A row: its floats, padding to 8 bytes, then RowMeta. All of it but the id is what LMDB holds (`stored_bytes`); the id
// stands last, so that the index needs no keys of its own. What the floats mean is the table's: users and items have
// a vector, a bias and the optimizer's state (kernels/optimizer.h, row_floats).
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "memory/pages.h"

struct RowMeta {
    uint64_t seq;      // of the last event that named the row
    uint32_t count;    // of such events, saturating
    uint32_t users;    // items of sequence models: that had it and were known by then (learn/sequence.cpp); else 0
    uint64_t ordinal;  // items: position in the catalogue
    int64_t id;        // in memory only

    void named(uint64_t by) {  // an event names the row
        seq = by;
        count += count != UINT32_MAX;
    }
};

struct RowLayout {
    explicit RowLayout(int64_t floats_)
        : floats(floats_),
          meta_offset((floats_ * 4 + 7) / 8 * 8),
          stored_bytes(meta_offset + 24),
          stride((meta_offset + 32 + 63) / 64 * 64) {}
    int64_t floats, meta_offset, stored_bytes, stride;
};

// Rows by slot. Grows by chunks: a row never moves while it is in its slot.
class Slab {
  public:
    Slab(RowLayout layout, int64_t capacity) : layout_(layout), capacity_(capacity) {
        chunks_.resize(static_cast<size_t>((capacity + kRows - 1) / kRows));
    }
    // Makes the memory of `slot` exist. Writer only.
    void reach(int64_t slot) {
        auto& chunk = chunks_[static_cast<size_t>(slot >> kShift)];
        if (chunk) return;
        const int64_t rows = std::min(kRows, capacity_ - (slot >> kShift << kShift));
        chunk = std::make_unique<Pages>(static_cast<size_t>(rows * layout_.stride));
    }
    float* row(int64_t slot) const {
        return reinterpret_cast<float*>(chunks_[static_cast<size_t>(slot >> kShift)]->data() +
                                        (slot & (kRows - 1)) * layout_.stride);
    }
    RowMeta& meta(int64_t slot) const {
        return *reinterpret_cast<RowMeta*>(reinterpret_cast<std::byte*>(row(slot)) + layout_.meta_offset);
    }
    const RowLayout& layout() const { return layout_; }

  private:
    static constexpr int64_t kShift = 16, kRows = int64_t{1} << kShift;
    RowLayout layout_;
    int64_t capacity_;
    std::vector<std::unique_ptr<Pages>> chunks_;
};
