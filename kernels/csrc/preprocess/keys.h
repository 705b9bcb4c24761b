// From ids to sort keys: | SparseCore asked | local row |.
#pragma once

#include <cstdint>

namespace emberay {

// How the ids of one feature become keys.
struct KeyRule {
  uint64_t vocabulary;
  uint64_t sparsecores;
  uint64_t shift;
  uint64_t row_add;
  unsigned row_bits;
};

// The key of padding: above every other.
template <class Key>
constexpr Key kPaddingKey = ~Key{0};

// Writes the key of every id and returns whether all ids are from 0 to below the vocabulary. Where
// they are not, keys mean nothing. Uses the widest vectors this machine has; a 32-bit key needs a
// vocabulary and keys below 2^31.
bool write_keys(const int32_t* ids, int64_t count, const KeyRule& rule, uint32_t* keys);
bool write_keys(const int64_t* ids, int64_t count, const KeyRule& rule, uint32_t* keys);
bool write_keys(const int32_t* ids, int64_t count, const KeyRule& rule, uint64_t* keys);
bool write_keys(const int64_t* ids, int64_t count, const KeyRule& rule, uint64_t* keys);

// Whether no value is NaN or infinite.
bool all_finite(const float* values, int64_t count);

// Which vectors are in use: "avx512", "avx2" or "baseline".
const char* vector_level();

}  // namespace emberay
