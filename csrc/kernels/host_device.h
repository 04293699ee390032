// How functions are marked that both the CPU's compiler and CUDA's take: nothing on the CPU.
//
// ROWTIDE_LANES is for what computes with a V16. On the CPU a V16 is sixteen floats of one thread; under CUDA it is one
// float in each of sixteen threads, half a warp, which call the function together.
#pragma once

#define ROWTIDE_PRAGMA(words) _Pragma(#words)
#if defined(__CUDACC__)
#define ROWTIDE_UNROLL(n) ROWTIDE_PRAGMA(unroll n)
#define ROWTIDE_HD __host__ __device__
#define ROWTIDE_LANES __device__ __forceinline__
#else
#define ROWTIDE_UNROLL(n) ROWTIDE_PRAGMA(GCC unroll n)
#define ROWTIDE_HD
#define ROWTIDE_LANES [[gnu::always_inline]] inline
#endif
