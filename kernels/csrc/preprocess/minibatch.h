// A batch that may be looked up in several minibatches: kernels/preprocessing/minibatching.py says
// what they are. In three steps, as all processes must agree between them: `sort`, `deal` (only if
// some process has a partition beyond its limits), `write`. All throw std::bad_alloc.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/csrc/preprocess/asked.h"
#include "kernels/csrc/preprocess/input.h"
#include "kernels/csrc/preprocess/source.h"

namespace emberay {

// The most that a bucket has (before any was dropped), and what a device's buffer needs.
struct Needs {
  int64_t ids = 0;
  int64_t unique_ids = 0;
  int64_t entries = 0;
};

class MinibatchedBatch {
 public:
  // `stacks` need no output yet.
  MinibatchedBatch(std::vector<Stack> stacks, const Shape& shape);
  MinibatchedBatch(const MinibatchedBatch&) = delete;

  // Reads the features, which nothing does afterwards. Does nothing if run_tasks saw no use in it.
  Trouble sort(std::span<const Feature> features, const RunTasks& run_tasks);

  // Whether a partition is beyond its limits.
  bool exceeds() const { return exceeds_; }

  // Deals rows into buckets, leaving out what exceeds a bucket's limits, and returns the cuts that
  // this process needs.
  uint64_t deal();

  // Fills the output of every stack; the number of minibatches follows from all processes' cuts.
  void write(uint64_t cuts);

  std::span<Stack> stacks() { return stacks_; }
  const Shape& shape() const { return shape_; }
  std::span<const Needs> needs() const { return needs_; }  // of every stack

 private:
  int64_t tasks() const { return static_cast<int64_t>(asked_.size()); }
  void measure();

  std::vector<Stack> stacks_;
  Shape shape_;
  std::vector<Asked> asked_;   // stack after stack
  std::vector<int64_t> seen_;  // of every task: [2, sparsecores]
  std::vector<Needs> needs_;
  int64_t ids_ = 0;
  bool exceeds_ = false;
  bool dealt_ = false;
};

}  // namespace emberay
