// Joining waits for memory, encoding computes: so both at once take less than one after the other.
// The caller, who holds the GIL, joins first; other threads encode first.
#include "kernels/csrc/preprocess/joining.h"

#include <algorithm>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "kernels/csrc/preprocess/source.h"

namespace emberay {
namespace {

class Joining {
 public:
  Joining(Batch& batch, int64_t count, const Task& task)
      : batch_(batch),
        tasks_of_stack_(count / static_cast<int64_t>(batch.stacks.size())),
        task_(task),
        missing_(batch.stacks.size(), 0),
        stack_of_feature_(batch.features.size()) {
    for (size_t number = 0; number < batch.stacks.size(); ++number) {
      const Stack& stack = batch.stacks[number];
      std::fill_n(stack_of_feature_.begin() + stack.first_feature, stack.num_features, number);
    }
    for (const Rows& rows : batch.rows) ++missing_[stack_of_feature_[rows.feature()]];
    ready_.reserve(count);
    for (size_t number = 0; number < missing_.size(); ++number) {
      if (missing_[number] == 0) make_ready(number);
    }
  }

  // Joins one sequence of rows or runs one task: called once for each of both, all are done.
  void step(Arena& arena) {
    const bool has_gil = std::this_thread::get_id() == caller_;
    const std::optional<Unit> unit = take(has_gil);
    if (!unit) return;
    if (unit->joins) {
      join(batch_.rows[unit->number], arena);
      return;
    }
    if (has_gil && unit->all_joined && !released_) released_.emplace();
    if (!unit->wrong) task_(unit->number, arena);
  }

 private:
  struct Unit {
    bool joins;
    int64_t number;   // of the rows, or of the task
    bool all_joined;  // no row is read any more
    bool wrong;       // with the batch
  };

  // Waits if all that is left depends on what others are joining. Returns nothing if they failed.
  std::optional<Unit> take(bool join_first) {
    constexpr int kPauses = 2000;
    const auto rows = static_cast<int64_t>(batch_.rows.size());
    for (int i = 0;; ++i) {
      {
        std::lock_guard<std::mutex> lock(mutex_);
        if (failed_) return {};
        const bool can_join = next_join_ < rows, can_run = next_ready_ < ready_.size();
        if (can_join && (join_first || !can_run)) return Unit{true, next_join_++, false, false};
        if (can_run) {
          return Unit{false, ready_[next_ready_++], joined_ == rows, batch_.is_wrong()};
        }
      }
      i < kPauses ? pause_briefly() : std::this_thread::yield();
    }
  }

  void join(Rows& rows, Arena& arena) {
    try {
      rows.join(arena);
    } catch (...) {
      std::lock_guard<std::mutex> lock(mutex_);
      failed_ = true;
      throw;
    }
    const size_t stack = stack_of_feature_[rows.feature()];
    std::lock_guard<std::mutex> lock(mutex_);
    ++joined_;
    if (--missing_[stack] > 0) return;
    batch_.take_rows(batch_.stacks[stack]);
    make_ready(stack);
  }

  void make_ready(size_t stack) {
    const int64_t first = static_cast<int64_t>(stack) * tasks_of_stack_;
    for (int64_t i = 0; i < tasks_of_stack_; ++i) ready_.push_back(first + i);
  }

  Batch& batch_;
  const int64_t tasks_of_stack_;
  const Task& task_;
  const std::thread::id caller_ = std::this_thread::get_id();
  std::optional<nb::gil_scoped_release> released_;  // the caller's

  std::mutex mutex_;              // guards what follows
  std::vector<int64_t> missing_;  // of every stack: sequences not joined yet
  std::vector<size_t> stack_of_feature_;
  std::vector<int64_t> ready_;  // tasks
  size_t next_ready_ = 0;
  int64_t next_join_ = 0;
  int64_t joined_ = 0;
  bool failed_ = false;
};

}  // namespace

bool join_and_run(Batch& batch, int64_t count, const Task& task) {
  int64_t ids = ids_of(batch.features);
  if (batch.rows.empty()) {
    nb::gil_scoped_release released;
    run_tasks(count, ids, task);
    return true;
  }
  for (const Rows& rows : batch.rows) ids += rows.size();
  Joining joining(batch, count, task);
  run_tasks(static_cast<int64_t>(batch.rows.size()) + count, ids,
            [&](int64_t, Arena& arena) { joining.step(arena); });
  return !batch.is_wrong();
}

}  // namespace emberay
