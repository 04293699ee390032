// The kernels for AVX2 + FMA. The standard headers come before the pragma: a library function that was compiled for
// AVX2 here could otherwise be the copy that the linker keeps for the whole program.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "kernels/groups.h"
#include "kernels/kernels.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#include "isa/lanes_avx2.h"
#define ISA avx2
#include "isa/table_impl.h"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
