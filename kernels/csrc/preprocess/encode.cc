#include "kernels/csrc/preprocess/encode.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "kernels/csrc/preprocess/source.h"
#include "kernels/csrc/preprocess/write.h"

namespace emberay {
namespace {

Target target_of(const Stack& stack, const Shape& shape, int64_t source, int64_t* seen) {
  return {stack.row_pointers + source * shape.pointers(),
          stack.embedding_ids + source * stack.buffer,
          stack.sample_ids + source * stack.buffer,
          stack.gains + source * stack.buffer,
          seen,
          seen + shape.sparsecores};
}

}  // namespace

void write_statistics(Stack& stack, const Shape& shape, const int64_t* seen) {
  const int64_t cores = shape.sparsecores;
  auto narrow = [](int64_t value) { return static_cast<int32_t>(std::min(value, kMostIds)); };
  for (int64_t device = 0; device < shape.local_devices; ++device) {
    for (int64_t asked = 0; asked < cores; ++asked) {
      int64_t ids = 0, unique = 0;
      for (int64_t core = 0; core < shape.per_device; ++core) {
        const int64_t* mine = seen + (device * shape.per_device + core) * 2 * cores;
        ids = std::max(ids, mine[asked]);
        unique = std::max(unique, mine[cores + asked]);
      }
      stack.max_ids_seen[device * cores + asked] = narrow(ids);
      stack.max_unique_seen[device * cores + asked] = narrow(unique);
    }
  }
}

Trouble encode(std::span<const Feature> features, std::span<Stack> stacks, const Shape& shape,
               const RunTasks& run_tasks) {
  const int64_t sources = shape.sources(), per_source = 2 * shape.sparsecores;
  const auto tasks = static_cast<int64_t>(stacks.size()) * sources;
  ThreadPool& pool = ThreadPool::get();
  std::unique_ptr<Arena> own = pool.take_arena();
  own->reset();
  auto* seen = own->take<int64_t>(tasks * per_source);
  auto* written = own->take<Written>(tasks);
  std::fill_n(written, tasks, Written{});

  auto scratch = [](int64_t, size_t, Arena& arena) -> Arena& { return arena; };
  auto write = [&]<class E>(int64_t task, std::span<const Sorted<E>> sorted) {
    const Stack& stack = stacks[task / sources];
    written[task] = write_buffer<E>(
        sorted, stack, shape, target_of(stack, shape, task % sources, seen + task * per_source));
  };
  const auto trouble = sort_sources(features, stacks, shape, run_tasks, scratch, write);
  if (!trouble || trouble->code != Code::kNone) {
    pool.give_arena(std::move(own));
    return trouble.value_or(Trouble{});
  }
  for (size_t i = 0; i < stacks.size(); ++i) {
    Stack& stack = stacks[i];
    const auto first = static_cast<int64_t>(i) * sources;
    write_statistics(stack, shape, seen + first * per_source);
    stack.dropped = 0;
    for (int64_t source = 0; source < sources; ++source) {
      const Written& mine = written[first + source];
      stack.required[source] = static_cast<int32_t>(std::min(mine.required, kMostIds));
      stack.dropped += mine.dropped;
      stack.exceeds |= mine.exceeds;
    }
  }
  pool.give_arena(std::move(own));
  return {};
}

}  // namespace emberay
