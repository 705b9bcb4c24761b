#include "kernels/csrc/cpu/parallel.h"

#include <algorithm>

namespace emberay::cpu {
namespace {

std::atomic<int64_t> wanted{0};

// Outlives the call it is for: a thread of the pool may come to it when all is done, finds that no
// task is left, and does not touch `task`.
struct Job {
  const std::function<void(int64_t)>* task;
  int64_t count;
  std::atomic<int64_t> next{0};
  std::atomic<int64_t> done{0};

  void work() {
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) {
      (*task)(i);
      if (done.fetch_add(1, std::memory_order_acq_rel) + 1 == count) done.notify_all();
    }
  }
};

}  // namespace

void set_threads(int64_t threads) { wanted.store(threads); }

int64_t threads_wanted() { return wanted.load(); }

int64_t Workers::count(const xla::ffi::ThreadPool& pool) {
  const int64_t given = threads_wanted();
  return given > 0 ? given : std::max<int64_t>(1, pool.num_threads());
}

void Workers::run(int64_t tasks, const std::function<void(int64_t)>& task) {
  if (tasks <= 1 || threads_ == 1) {
    for (int64_t i = 0; i < tasks; ++i) task(i);
    return;
  }
  auto job = std::make_shared<Job>();
  job->task = &task;
  job->count = tasks;
  for (int64_t i = 1; i < std::min(tasks, threads_); ++i) pool_.Schedule([job] { job->work(); });
  job->work();
  for (int64_t done; (done = job->done.load(std::memory_order_acquire)) < tasks;) {
    job->done.wait(done, std::memory_order_acquire);
  }
}

}  // namespace emberay::cpu
