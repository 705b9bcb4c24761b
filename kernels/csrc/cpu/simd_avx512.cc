// The loops over rows, for machines with AVX-512.
#if defined(__x86_64__)
#include "kernels/csrc/cpu/row_math_headers.h"

#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512vl,avx512dq,avx512bw"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw")
#endif

#define EMBERAY_LEVEL avx512
#include "kernels/csrc/cpu/row_math.inc.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
