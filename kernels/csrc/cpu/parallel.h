// Work shared with XLA's own threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace emberay::cpu {

// Sets how many threads the work is cut for; 0 asks XLA's pool.
void set_threads(int64_t threads);
int64_t threads_wanted();

// Calls of task(i) for every i in [0, count), in any order and on any thread.
struct Phase {
  int64_t count;
  std::function<void(int64_t)> task;
};

// The threads of XLA's pool, for one call of a handler.
class Workers {
 public:
  explicit Workers(xla::ffi::ThreadPool& pool) : pool_(pool), threads_(count(pool)) {}

  int64_t threads() const { return threads_; }

  // Runs phases one after another, on this thread and on those of the pool that are free, and
  // returns when all are done. Threads are woken once for all phases. Whoever is there takes on
  // what nobody has begun, and waits only for what somebody else has begun, so this thread never
  // waits for one that another call like this one keeps busy. What a task throws leaves this call,
  // when all that was begun has ended.
  void run(std::vector<Phase> phases);

  // Runs one phase.
  void run(int64_t tasks, std::function<void(int64_t)> task) { run({{tasks, std::move(task)}}); }

 private:
  static int64_t count(const xla::ffi::ThreadPool& pool);

  xla::ffi::ThreadPool& pool_;
  int64_t threads_;
};

}  // namespace emberay::cpu
