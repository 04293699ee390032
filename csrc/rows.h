// The layout of a row and the memory that rows live in.
//
// A row: float[dim] vector, float bias, the optimizer's state (optimizer.h), padding to 8 bytes, then RowMeta. All of
// it but the id is what LMDB holds (`stored_bytes`); the id stands last, so that the index needs no keys of its own.
#pragma once
#include <sys/mman.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "optimizer.h"
#include "poison.h"

struct RowMeta {
    uint64_t seq;       // of the last event that named the row
    uint32_t count;     // of such events, saturating
    uint32_t reserved;  // 0
    uint64_t ordinal;   // items: position in the catalogue
    int64_t id;         // in memory only

    void named(uint64_t by) {  // an event names the row
        seq = by;
        count += count != UINT32_MAX;
    }
};

struct RowLayout {
    RowLayout(int64_t dim_, Optimizer optimizer)
        : dim(dim_),
          meta_offset(((dim_ + 1 + state_floats(optimizer, dim_)) * 4 + 7) / 8 * 8),
          stored_bytes(meta_offset + 24),
          stride((meta_offset + 32 + 63) / 64 * 64) {}
    int64_t dim, meta_offset, stored_bytes, stride;
};

// Memory straight from the kernel, in huge pages where it has them; zero at first, given back at the end.
class Pages {
  public:
    explicit Pages(size_t bytes) : bytes_((bytes + kHuge - 1) / kHuge * kHuge) {
        // Mapped with room to align, so that huge pages can start at once; the rest is never touched.
        reserved_ = bytes_ + kHuge;
        base_ = ::mmap(nullptr, reserved_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (base_ == MAP_FAILED) throw std::bad_alloc();
        const auto at = (reinterpret_cast<uintptr_t>(base_) + kHuge - 1) / kHuge * kHuge;
        data_ = reinterpret_cast<std::byte*>(at);
        ::madvise(data_, bytes_, MADV_HUGEPAGE);
        poison(data_ + bytes, bytes_ - bytes);
    }
    ~Pages() {
        unpoison(data_, bytes_);
        ::munmap(base_, reserved_);
    }
    Pages(const Pages&) = delete;
    Pages& operator=(const Pages&) = delete;
    std::byte* data() const { return data_; }
    // Has the kernel find the memory now, so that nobody waits for it at the first touch. Only a hint.
    void populate() const { ::madvise(data_, bytes_, MADV_POPULATE_WRITE); }
    size_t bytes() const { return bytes_; }

  private:
    static constexpr size_t kHuge = size_t{2} << 20;
    size_t bytes_, reserved_;
    void* base_;
    std::byte* data_;
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
