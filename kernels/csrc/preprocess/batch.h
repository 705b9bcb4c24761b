// A batch as Python gives it.
#pragma once

#include "kernels/csrc/preprocess/rows.h"

#include <cstdint>
#include <stdexcept>
#include <vector>

#include "kernels/csrc/preprocess/input.h"

namespace emberay {

constexpr int64_t kMostEntries = 0x7fffffff;

inline void require(bool condition, const char* what) {
  if (!condition) throw std::invalid_argument(what);
}

struct Batch {
  Shape shape;
  std::vector<Feature> features;
  std::vector<Stack> stacks;
  std::vector<Rows> rows;  // of the features that are ragged; gains follow their ids

  // What is wrong with the rows, once they are joined: features some of whose rows are not arrays
  // that can be read as they are; and another trouble.
  std::vector<int64_t> odd;
  Trouble trouble;

  bool is_wrong() const { return !odd.empty() || trouble.code != Code::kNone; }
  // Uses what was joined of a stack, or notes what is wrong with it.
  void take_rows(const Stack& stack);
};

// Features are (ids, offsets, gains, samples, vocabulary, first sample, row add, shift, combiner).
// Without offsets, ids and gains are arrays of two dimensions; or lists, tuples or object arrays of
// rows, which have to be joined then (see joining.h). Stacks are (number of features, max ids, max
// unique ids, buffer). Throws std::invalid_argument.
Batch read_batch(nb::list features, nb::list stacks, int64_t local_devices, int64_t per_device,
                 int64_t sparsecores);

}  // namespace emberay
