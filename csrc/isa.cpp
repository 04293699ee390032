// Which table of kernels is in force: the best that this CPU has, unless the caller chose.
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

const Kernels* in_force = nullptr;

}  // namespace

const Kernels& kernels() {
    if (!in_force) in_force = find("avx2") ? find("avx2") : &kPortable;
    return *in_force;
}

bool select_kernels(const char* isa) {
    const Kernels* k = find(isa);
    if (k) in_force = k;
    return k != nullptr;
}

bool kernels_available(const char* isa) { return find(isa) != nullptr; }
