// Which table of kernels is in force: the best that this CPU has, unless the caller chose.
#include <atomic>
#include <cstring>

#include "kernels.h"

namespace portable {
Kernels table();
}
#if defined(__x86_64__)
namespace avx2 {
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
#endif

const Kernels* find(const char* isa) {
#if defined(__x86_64__)
    if (!std::strcmp(isa, "avx2") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &kAvx2;
#endif
    if (!std::strcmp(isa, "portable")) return &kPortable;
    return nullptr;
}

std::atomic<const Kernels*> in_force{nullptr};  // every thread reads it

}  // namespace

const Kernels& kernels() {
    const Kernels* k = in_force.load(std::memory_order_relaxed);
    if (!k) {
        const Kernels* best = find("avx2") ? find("avx2") : &kPortable;
        if (in_force.compare_exchange_strong(k, best, std::memory_order_relaxed)) k = best;
    }
    return *k;
}

bool select_kernels(const char* isa) {
    const Kernels* k = find(isa);
    if (k) in_force.store(k, std::memory_order_relaxed);
    return k != nullptr;
}

bool kernels_available(const char* isa) { return find(isa) != nullptr; }
