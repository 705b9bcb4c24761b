// Which bucket a row is in: the HighwayHash of its column, modulo 64.
#pragma once

#include <cstdint>

namespace emberay {

constexpr int64_t kBuckets = 64;

// Writes the bucket of every column (local row * SparseCores + SparseCore asked, modulo 2^32). Uses
// the widest vectors this machine has. The same numbers as kernels/preprocessing/highway_hash.py.
void buckets_of(const uint32_t* columns, int64_t count, uint8_t* buckets);

}  // namespace emberay
