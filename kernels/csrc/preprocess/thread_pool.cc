#include "kernels/csrc/preprocess/thread_pool.h"

#include <pthread.h>

#include <algorithm>
#include <exception>
#include <thread>
#include <utility>

#include "kernels/csrc/exceptions.h"

namespace emberay {
namespace {

constexpr int kPauses = 2000;  // some 50 microseconds

std::atomic<ThreadPool*> current{nullptr};
std::atomic<int64_t> wanted_threads{1};
// A pointer, as a child process replaces it: it could be locked by a thread that is not there.
std::atomic<std::mutex*> creation{new std::mutex};

// After a fork, threads are gone and locks may be held for ever: begin anew.
void forget_after_fork() {
  current.store(nullptr);
  creation.store(new std::mutex);
}

}  // namespace

void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb");
#endif
}

struct ThreadPool::Job {
  const Task& task;
  int64_t count;
  std::atomic<int64_t> next{0};
  std::atomic<int64_t> active{0};  // workers inside; changed under the pool's mutex
  std::condition_variable left;
  std::exception_ptr error;  // guarded by the pool's mutex
};

ThreadPool& ThreadPool::get() {
  if (ThreadPool* pool = current.load()) return *pool;
  std::lock_guard<std::mutex> lock(*creation.load());
  if (current.load() == nullptr) {
    static const int registered = pthread_atfork(nullptr, nullptr, forget_after_fork);
    (void)registered;
    current.store(new ThreadPool(wanted_threads.load()));
  }
  return *current.load();
}

void ThreadPool::set_threads(int64_t threads) {
  wanted_threads.store(std::max<int64_t>(threads, 1));
}

ThreadPool::ThreadPool(int64_t threads) {
  for (int64_t i = 1; i < threads; ++i) {
    try {
      std::thread([this] { worker(); }).detach();
    } catch (const std::system_error&) {
      break;  // no more threads to be had: go on with these
    }
    ++workers_;
  }
}

void ThreadPool::run(int64_t count, const Task& task) {
  Job job{task, count, {}, {}, {}, {}};
  const bool shared = workers_ > 0 && count > 1;
  if (shared) {
    std::lock_guard<std::mutex> lock(mutex_);
    jobs_.push_back(&job);
  }
  if (shared) {
    const int64_t helpers = std::min(workers_, count - 1);
    for (int64_t i = 0; i < helpers; ++i) wake_.notify_one();
  }
  work(job);
  std::unique_lock<std::mutex> lock(mutex_);
  forget(job);
  if (job.active > 0) {  // workers are at their last tasks
    lock.unlock();
    for (int i = 0; i < kPauses && job.active > 0; ++i) pause_briefly();
    lock.lock();
  }
  job.left.wait(lock, [&] { return job.active == 0; });
  if (job.error) std::rethrow_exception(job.error);
}

void ThreadPool::worker() {
  prepare_for_exceptions();
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    wake_.wait(lock, [this] { return !jobs_.empty(); });
    Job& job = *jobs_.front();
    ++job.active;
    lock.unlock();
    work(job);
    lock.lock();
    // Nothing is left to begin; the caller may be waiting for this worker to leave.
    forget(job);
    if (--job.active == 0) job.left.notify_one();
  }
}

void ThreadPool::forget(Job& job) {
  jobs_.erase(std::remove(jobs_.begin(), jobs_.end(), &job), jobs_.end());
}

void ThreadPool::work(Job& job) {
  std::unique_ptr<Arena> arena;
  try {
    arena = take_arena();
    for (int64_t i; (i = job.next.fetch_add(1)) < job.count;) {
      arena->reset();
      job.task(i, *arena);
    }
  } catch (...) {
    job.next.store(job.count);
    std::lock_guard<std::mutex> lock(mutex_);
    if (!job.error) job.error = std::current_exception();
  }
  if (arena) give_arena(std::move(arena));
}

std::unique_ptr<Arena> ThreadPool::take_arena() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (arenas_.empty()) return std::make_unique<Arena>();
  // One's own, if there is one: it lies in the caches of this core, and not of another.
  auto mine = std::find_if(arenas_.rbegin(), arenas_.rend(), [](const Idle& idle) {
    return idle.user == std::this_thread::get_id();
  });
  if (mine == arenas_.rend()) mine = arenas_.rbegin();
  std::unique_ptr<Arena> arena = std::move(mine->arena);
  arenas_.erase(std::prev(mine.base()));
  return arena;
}

void ThreadPool::give_arena(std::unique_ptr<Arena> arena) {
  std::lock_guard<std::mutex> lock(mutex_);
  arenas_.push_back({std::this_thread::get_id(), std::move(arena)});
}

size_t ThreadPool::scratch_bytes() {
  std::lock_guard<std::mutex> lock(mutex_);
  size_t bytes = 0;
  for (const Idle& idle : arenas_) bytes += idle.arena->capacity();
  return bytes;
}

}  // namespace emberay
