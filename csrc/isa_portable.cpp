// The kernels in plain C++, for CPUs without AVX2 and as a check of the others.
#include "lanes_portable.h"
#define ISA portable
#include "kernels_impl.h"
