// What a batch is made of, as the engine sees it: views of memory that Python keeps alive.
#pragma once

#include <cstdint>

namespace emberay {

enum class Combiner : int { kSum = 0, kMean = 1, kSqrtN = 2 };

// One feature of one stack. Either dense (`offsets` is null: every sample holds `valency` ids) or
// values with offsets.
struct Feature {
  const void* ids = nullptr;
  bool wide_ids = false;  // int64, else int32
  int64_t num_ids = 0;
  const void* offsets = nullptr;  // [samples + 1]
  bool wide_offsets = false;
  int64_t valency = 0;
  const float* gains = nullptr;  // [num_ids], or null: every id counts 1
  int64_t samples = 0;           // on this process
  int64_t vocabulary = 0;
  int64_t first_sample = 0;  // of this feature among the samples of a SparseCore
  int64_t row_add = 0;       // first row of its table in every shard
  int64_t shift = 0;         // rotation of its table's shards
  Combiner combiner = Combiner::kSum;
};

// What cannot be encoded. Python finds the words for it.
enum class Code : int {
  kNone = 0,
  kOffsets = 1,      // the sample's offsets decrease or leave the ids
  kTooMany = 2,      // more ids of a stack on one SparseCore than 32-bit positions can tell apart
  kIdRange = 3,      // the sample holds an id that is neither of the vocabulary nor padding
  kGain = 4,         // the sample holds a gain that is not finite
  kCancelled = 5,    // the gains of the sample cannot be divided by: they sum to 0 or to infinity
  kGainsDiffer = 6,  // rows of gains have other lengths than those of ids
};

struct Trouble {
  Code code = Code::kNone;
  int64_t feature = 0;
  int64_t sample = 0;
};

// How many devices and SparseCores there are.
struct Shape {
  int64_t local_devices = 1;
  int64_t per_device = 1;
  int64_t sparsecores = 1;       // of the mesh
  int64_t most_minibatches = 1;  // that there is room for in row pointers

  int64_t sources() const { return local_devices * per_device; }
  int64_t pointers() const { return sparsecores > 8 ? sparsecores : 8; }
};

// One stack: its features (a range of the batch's), its limits, and where its output goes.
struct Stack {
  int64_t first_feature = 0;
  int64_t num_features = 0;
  int64_t max_ids = 0;  // of a partition
  int64_t max_unique_ids = 0;
  int64_t buffer = 0;  // entries of a SparseCore

  int32_t* row_pointers = nullptr;   // [sources, pointers]
  int32_t* embedding_ids = nullptr;  // [sources, buffer]
  int32_t* sample_ids = nullptr;
  float* gains = nullptr;
  int32_t* max_ids_seen = nullptr;     // [local devices, sparsecores]
  int32_t* max_unique_seen = nullptr;  // [local devices, sparsecores]
  int32_t* required = nullptr;         // [sources]
  int64_t dropped = 0;
  bool exceeds = false;  // whether it went beyond a limit or the buffer
};

constexpr int32_t kUnused = 0x7fffffff;  // embedding id and sample id of an unused entry
constexpr int64_t kPaddingId = -1;       // an id that is none
constexpr int64_t kAlignment = 8;        // partitions start at multiples of it

inline int64_t aligned(int64_t entries) { return (entries + kAlignment - 1) & -kAlignment; }

}  // namespace emberay
