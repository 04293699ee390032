// Memory straight from the kernel, in huge pages where it has them; zero at first, given back at the end.
#pragma once
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <new>

#include "memory/poison.h"

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
