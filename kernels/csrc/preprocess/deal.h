// Dealing a SparseCore's entries into the buckets of their rows.
#pragma once

#include <cstdint>

#include "kernels/csrc/preprocess/arena.h"
#include "kernels/csrc/preprocess/asked.h"
#include "kernels/csrc/preprocess/input.h"

namespace emberay {

// The entries of every partition by bucket, without those beyond a bucket's limits. Throws
// std::bad_alloc.
Asked dealt(const Asked& asked, const Stack& stack, const Shape& shape, Arena& arena);

// The cuts that a SparseCore's partitions need.
uint64_t cuts_for(const Asked& dealt, const Stack& stack, const Shape& shape);

}  // namespace emberay
