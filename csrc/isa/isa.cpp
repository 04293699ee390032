// Which table of kernels is in force: the best that this CPU has, unless the caller chose.
#include <atomic>
#include <cstring>

#include "kernels/kernels.h"

namespace portable {
extern const Kernels kTable;
}
#if defined(__x86_64__)
namespace avx2 {
extern const Kernels kTable;
}
namespace avx512 {
extern const Kernels kTable;
}
#endif

namespace {

const Kernels* find(const char* isa) {
#if defined(__x86_64__)
    const bool fma = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (!std::strcmp(isa, "avx512") && fma && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq"))
        return &avx512::kTable;
    if (!std::strcmp(isa, "avx2") && fma) return &avx2::kTable;
#endif
    if (!std::strcmp(isa, "portable")) return &portable::kTable;
    return nullptr;
}

const Kernels* best() {
    for (const char* isa : {"avx512", "avx2"})
        if (const Kernels* k = find(isa)) return k;
    return &portable::kTable;
}

std::atomic<const Kernels*> chosen{nullptr};

}  // namespace

const Kernels& kernels() {
    static const Kernels* const fastest = best();
    const Kernels* k = chosen.load(std::memory_order_relaxed);
    return k ? *k : *fastest;
}

bool select_kernels(const char* isa) {
    const Kernels* k = find(isa);
    if (k) chosen.store(k, std::memory_order_relaxed);
    return k != nullptr;
}

bool kernels_available(const char* isa) { return find(isa) != nullptr; }
