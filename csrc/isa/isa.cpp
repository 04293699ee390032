// Which table of kernels is in force: the best that this CPU has, unless the caller chose.
#include <atomic>
#include <cstring>

#include "kernels/kernels.h"

namespace portable {
Kernels table();
}
#if defined(__x86_64__)
namespace avx2 {
Kernels table();
}
namespace avx512 {
Kernels table();
}
#endif

namespace {

Kernels named(Kernels k, const char* name) {
    k.name = name;
    return k;
}

const Kernels kPortable = named(portable::table(), "portable");
#if defined(__x86_64__)
const Kernels kAvx2 = named(avx2::table(), "avx2");
const Kernels kAvx512 = named(avx512::table(), "avx512");
#endif

const Kernels* find(const char* isa) {
#if defined(__x86_64__)
    const bool fma = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (!std::strcmp(isa, "avx512") && fma && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq"))
        return &kAvx512;
    if (!std::strcmp(isa, "avx2") && fma) return &kAvx2;
#endif
    if (!std::strcmp(isa, "portable")) return &kPortable;
    return nullptr;
}

const Kernels* best() {
    for (const char* isa : {"avx512", "avx2"})
        if (const Kernels* k = find(isa)) return k;
    return &kPortable;
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
