// The loops over rows, compiled once for every level of vector instructions.
//
// Every level gives the same bits: each column is summed in the same order, without fused
// multiply-add, by the correctly rounded operations of IEEE 754.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/csrc/cpu/groups.h"

namespace emberay::cpu {

// Numbers are those of kernels/backends/cpu.py.
enum class Optimizer : int64_t {
  kSgd,
  kAdagrad,
  kRowWiseAdagrad,
  kAdagradMomentum,
  kAdam,
  kFtrl,
  kLaProp,
  kF2a,
};
inline constexpr int64_t kOptimizers = 8;

inline constexpr int64_t kMostSlots = 2;
inline constexpr int64_t kMostHyperparameters = 8;

// A table, its slot variables, and what changes them.
struct Variables {
  float* table;
  float* slots[kMostSlots];
  int64_t slot_widths[kMostSlots];
  int64_t width;
  int64_t embedding_dim;  // columns in use
  float hyperparameters[kMostHyperparameters];
  float low, high;  // bounds of updated entries
};

// Groups as plain pointers.
struct Groups {
  const int32_t* rows;
  const int64_t* begins;
  const Use* uses;
};
inline Groups groups_of(const Part& part) {
  return {part.rows.data(), part.begins.data(), part.uses.data()};
}

// Entries that follow each other, as they lie in the buffers.
struct Entries {
  const int32_t* ids;
  const int32_t* samples;
  const float* gains;
  int64_t count;
};

// Floats that an update needs besides, for a table of this width.
inline int64_t scratch_size(int64_t width) { return 3 * width; }

struct RowMath {
  // out[g] = the sum of gain * source[index] over the uses of group g; 0 if it has none.
  void (*sum)(const Groups& groups, int64_t begin, int64_t end, const float* source, float* out,
              int64_t width);
  // out[sample] = gain * source[id] for every entry.
  void (*scale)(const Entries& entries, const float* source, float* out, int64_t width);
  // Sums the gradients of groups [begin, end) and changes their rows.
  void (*update[kOptimizers])(const Groups& groups, int64_t begin, int64_t end,
                              const float* gradients, const Variables& variables, float* scratch);
};

// The level in use: the best of this machine, unless `use_level` chose another.
const RowMath& row_math();

// Names of the levels that run on this machine, best first.
std::vector<std::string> levels();

// Takes a level by its name from now on. False if this machine has none of that name.
bool use_level(const std::string& name);

}  // namespace emberay::cpu
