// The kernels in plain C++, for CPUs without AVX2 and as a check of the others.
#include "isa/lanes_portable.h"
#define ISA portable
#include "isa/table_impl.h"
