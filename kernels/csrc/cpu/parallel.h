// Work shared with XLA's own threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>

#include "xla/ffi/api/ffi.h"

namespace emberay::cpu {

// Sets how many threads the work is cut for; 0 asks XLA's pool.
void set_threads(int64_t threads);
int64_t threads_wanted();

// The threads of XLA's pool, for one call of a handler.
class Workers {
 public:
  explicit Workers(xla::ffi::ThreadPool& pool) : pool_(pool), threads_(count(pool)) {}

  int64_t threads() const { return threads_; }

  // Calls task(i) for every i in [0, count), on this thread and on those of the pool that are free,
  // and returns when all are done. This thread takes on whatever nobody has begun, so it never
  // waits for a thread that another call like this one keeps busy.
  void run(int64_t tasks, const std::function<void(int64_t)>& task);

 private:
  static int64_t count(const xla::ffi::ThreadPool& pool);

  xla::ffi::ThreadPool& pool_;
  int64_t threads_;
};

}  // namespace emberay::cpu
