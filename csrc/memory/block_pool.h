// Memory for the entries of users: a few sizes, each freed block kept for the next of its size. The general allocator
// spent a fifth of the learning time on splitting and joining them. Sizes a power of two apart would leave a third of
// the memory empty, and new memory is what a history that grows waits for.
#pragma once
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <utility>
#include <vector>

#include "memory/pages.h"
#include "memory/poison.h"

class BlockPool {
  public:
    static constexpr int kLines[] = {1,  2,  3,  4,  6,   8,   12,  16,  24,
                                     32, 48, 64, 96, 128, 192, 277, 384, 537};  // of 64 bytes
    static constexpr int kSizes = std::size(kLines);
    static constexpr int64_t bytes_of(int size) { return int64_t{64} * kLines[size]; }
    void* take(int size) {
        auto& free = free_[size];
        if (!free.empty()) {
            void* block = free.back();
            free.pop_back();
            unpoison(block, static_cast<size_t>(bytes_of(size)));
            return block;
        }
        if (left_ < bytes_of(size)) {
            prepare();
            chunks_.push_back(std::move(spare_));
            next_ = chunks_.back()->data();
            left_ = kChunkBytes;
        }
        void* block = next_;
        next_ += bytes_of(size);
        left_ -= bytes_of(size);
        return block;
    }
    void give(void* block, int size) {
        free_[size].push_back(block);
        poison(block, static_cast<size_t>(bytes_of(size)));
    }
    // Has a chunk at hand, and its memory from the kernel, before a lock is taken.
    void prepare() {
        if (spare_) return;
        spare_ = std::make_unique<Pages>(kChunkBytes);
        *spare_->data() = std::byte{0};
    }

  private:
    static constexpr int64_t kChunkBytes = int64_t{2} << 20;
    std::vector<std::unique_ptr<Pages>> chunks_;
    std::unique_ptr<Pages> spare_;
    std::vector<void*> free_[kSizes];
    std::byte* next_ = nullptr;
    int64_t left_ = 0;
};
