#include "kernels/csrc/cpu/parallel.h"

#include <algorithm>
#include <exception>
#include <mutex>
#include <utility>

#include "kernels/csrc/exceptions.h"

namespace emberay::cpu {
namespace {

std::atomic<int64_t> wanted{0};

// Phases take turns within microseconds; sleeping and waking takes longer.
constexpr int kSpins = 1000;

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// The first exception of a call's tasks, which those not begun yet are left out for.
class Failure {
 public:
  bool any() const { return any_.load(std::memory_order_acquire); }

  void keep(std::exception_ptr error) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!error_) error_ = std::move(error);
    any_.store(true, std::memory_order_release);
  }

  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::atomic<bool> any_{false};
  std::mutex mutex_;
  std::exception_ptr error_;
};

struct Stage {
  Phase phase;
  std::atomic<int64_t> next{0};
  std::atomic<int64_t> done{0};

  // Counts every task as done, whatever becomes of it: others wait for the count.
  void work(Failure& failure) {
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < phase.count;) {
      try {
        if (!failure.any()) phase.task(i);
      } catch (...) {
        failure.keep(std::current_exception());
      }
      if (done.fetch_add(1, std::memory_order_acq_rel) + 1 == phase.count) done.notify_all();
    }
  }

  void wait() {
    for (int spin = 0; spin < kSpins; ++spin) {
      if (done.load(std::memory_order_acquire) >= phase.count) return;
      pause();
    }
    for (int64_t so_far; (so_far = done.load(std::memory_order_acquire)) < phase.count;) {
      done.wait(so_far, std::memory_order_acquire);
    }
  }
};

// Outlives the call it is for: a thread of the pool may come to it when all is done, finds that no
// task is left, and does not touch what tasks refer to.
struct Job {
  std::unique_ptr<Stage[]> stages;
  size_t count;
  Failure failure;

  explicit Job(std::vector<Phase>& phases)
      : stages(std::make_unique<Stage[]>(phases.size())), count(phases.size()) {
    for (size_t s = 0; s < count; ++s) stages[s].phase = std::move(phases[s]);
  }

  void work() {
    prepare_for_exceptions();
    for (size_t s = 0; s < count; ++s) {
      stages[s].work(failure);
      if (s + 1 < count) stages[s].wait();
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

void Workers::run(std::vector<Phase> phases) {
  int64_t most = 0;
  for (const Phase& phase : phases) most = std::max(most, phase.count);
  if (most <= 1 || threads_ == 1) {
    for (const Phase& phase : phases) {
      for (int64_t i = 0; i < phase.count; ++i) phase.task(i);
    }
    return;
  }
  const auto job = std::make_shared<Job>(phases);
  for (int64_t i = 1; i < std::min(most, threads_); ++i) pool_.Schedule([job] { job->work(); });
  job->work();
  job->stages[job->count - 1].wait();
  job->failure.rethrow();
}

}  // namespace emberay::cpu
