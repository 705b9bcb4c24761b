// The engine's own threads, started at the first batch and again after a fork.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "kernels/csrc/preprocess/arena.h"

namespace emberay {

using Task = std::function<void(int64_t, Arena&)>;

// Waits for less than it takes to sleep and be woken.
void pause_briefly();

class ThreadPool {
 public:
  // The process's pool. Never destroyed: its threads sleep until the process ends.
  static ThreadPool& get();

  // Threads that work on a batch, the caller included, from the next pool on.
  static void set_threads(int64_t threads);

  // Calls task(i, scratch) for every i in [0, count), the caller taking part, and returns when all
  // are done. Any number of threads may call this at once. The first exception of a task is thrown
  // here, after all have ended.
  void run(int64_t count, const Task& task);

  // Scratch memory of one's own, to be given back.
  std::unique_ptr<Arena> take_arena();
  void give_arena(std::unique_ptr<Arena> arena);

  int64_t threads() const { return static_cast<int64_t>(workers_) + 1; }
  size_t scratch_bytes();

 private:
  struct Job;
  struct Idle {  // scratch memory that is not in use
    std::thread::id user;  // the last one
    std::unique_ptr<Arena> arena;
  };

  explicit ThreadPool(int64_t threads);
  void worker();
  void work(Job& job);
  void forget(Job& job);
  int64_t workers_ = 0;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<Job*> jobs_;
  std::vector<Idle> arenas_;
};

}  // namespace emberay
