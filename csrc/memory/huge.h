// An allocator for large tables that are read at random: huge pages, so that a look costs no page walk.
#pragma once
#include <sys/mman.h>

#include <cstddef>
#include <cstdlib>
#include <new>
#include <vector>

template <class T>
struct HugeAllocator {
    using value_type = T;
    HugeAllocator() = default;
    template <class U>
    HugeAllocator(const HugeAllocator<U>&) {}

    T* allocate(size_t n) {
        if (!huge(n)) return static_cast<T*>(::operator new(n * sizeof(T), align()));
        const size_t bytes = (n * sizeof(T) + kPage - 1) / kPage * kPage;
        void* memory = std::aligned_alloc(kPage, bytes);
        if (!memory) throw std::bad_alloc();
        ::madvise(memory, bytes, MADV_HUGEPAGE);
        return static_cast<T*>(memory);
    }
    void deallocate(T* memory, size_t n) {
        if (huge(n))
            std::free(memory);
        else
            ::operator delete(memory, align());
    }
    template <class U>
    bool operator==(const HugeAllocator<U>&) const {
        return true;
    }

  private:
    static constexpr size_t kPage = size_t{2} << 20;
    static constexpr std::align_val_t align() { return std::align_val_t{alignof(T) > 64 ? alignof(T) : 64}; }
    static bool huge(size_t n) { return n * sizeof(T) >= kPage; }
};

template <class T>
using HugeVector = std::vector<T, HugeAllocator<T>>;
