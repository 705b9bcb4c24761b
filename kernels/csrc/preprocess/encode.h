// A whole batch: one task for every stack and SparseCore of this process.
#pragma once

#include <span>

#include "kernels/csrc/preprocess/input.h"
#include "kernels/csrc/preprocess/source.h"

namespace emberay {

// Fills the output of every stack, or tells one thing that is wrong with the input; does neither if
// run_tasks saw no use in it. Throws std::bad_alloc.
Trouble encode(std::span<const Feature> features, std::span<Stack> stacks, const Shape& shape,
               const RunTasks& run_tasks);

// Writes a stack's statistics of every device: the most of its SparseCores. `seen` has ids, then
// unique ids, of every partition: [sources, 2, sparsecores].
void write_statistics(Stack& stack, const Shape& shape, const int64_t* seen);

}  // namespace emberay
