// Ragged rows are joined while stacks that are joined already are encoded.
#pragma once

#include "kernels/csrc/preprocess/batch.h"

#include <cstdint>

#include "kernels/csrc/preprocess/thread_pool.h"

namespace emberay {

// Runs the tasks of every stack, once its features are joined, as RunTasks says; without use is
// what follows when the batch turns out to be wrong. To be called with the GIL held, which is given
// up as soon as no row has to be read any more, and held again in the end. Throws std::bad_alloc.
bool join_and_run(Batch& batch, int64_t count, const Task& task);

}  // namespace emberay
