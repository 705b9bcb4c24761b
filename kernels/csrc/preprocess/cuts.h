// Where the buckets are cut into minibatches: kernels/preprocessing/minibatching.py draws the tree.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/csrc/preprocess/highway_hash.h"

namespace emberay {

// The cuts that a partition needs, `counts` being those of its buckets, so that it has at most
// `limit` in a minibatch; as bits, leaves of the tree first.
inline uint64_t cuts_for(const uint32_t* counts, int64_t limit) {
  int64_t level[kBuckets];
  std::copy_n(counts, kBuckets, level);
  uint64_t bits = 0;
  unsigned node = 0;
  for (int64_t nodes = kBuckets / 2; nodes > 0; nodes /= 2) {
    for (int64_t i = 0; i < nodes; ++i, ++node) {
      const int64_t left = level[2 * i], right = level[2 * i + 1];
      const bool cut = left + right > limit;
      bits |= static_cast<uint64_t>(cut) << node;
      // A cut node counts as its larger side: that is what a neighbour may join.
      level[i] = cut ? std::max(left, right) : left + right;
    }
  }
  return bits;
}

// The runs of buckets that are minibatches: number m has the buckets [begin[m], begin[m + 1]).
struct Runs {
  int64_t count = 1;
  int64_t begin[kBuckets + 1] = {};

  // All buckets, in one run.
  static Runs whole(int64_t buckets) {
    Runs runs;
    runs.begin[1] = buckets;
    return runs;
  }

  static Runs of(uint64_t bits) {
    bool is_first[kBuckets] = {true};
    unsigned node = 0;
    for (int64_t size = 2; size <= kBuckets; size *= 2) {
      for (int64_t bucket = size / 2; bucket < kBuckets; bucket += size, ++node) {
        is_first[bucket] = bits >> node & 1;
      }
    }
    Runs runs;
    runs.count = 0;
    for (int64_t bucket = 0; bucket < kBuckets; ++bucket) {
      if (is_first[bucket]) runs.begin[runs.count++] = bucket;
    }
    runs.begin[runs.count] = kBuckets;
    return runs;
  }
};

}  // namespace emberay
