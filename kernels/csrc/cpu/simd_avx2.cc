// The loops over rows, for machines with AVX2.
#if defined(__x86_64__)
#include "kernels/csrc/cpu/row_math_headers.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC target("avx2")
#endif

#define EMBERAY_LEVEL avx2
#include "kernels/csrc/cpu/row_math.inc.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
