// What one SparseCore asks of one stack, kept from one step of minibatching to the next.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <utility>

#include "kernels/csrc/preprocess/buffer_pool.h"
#include "kernels/csrc/preprocess/input.h"
#include "kernels/csrc/preprocess/sort.h"
#include "kernels/csrc/preprocess/write.h"

namespace emberay {

// Memory of the pool, as one array after another.
class PoolMemory {
 public:
  PoolMemory() = default;
  explicit PoolMemory(size_t bytes) : block_(BufferPool::get().take(bytes)) {}
  PoolMemory(PoolMemory&& other) noexcept { *this = std::move(other); }
  PoolMemory& operator=(PoolMemory&& other) noexcept {
    std::swap(block_, other.block_);
    std::swap(used_, other.used_);
    return *this;
  }
  ~PoolMemory() {
    if (block_.memory != nullptr) BufferPool::get().give(block_);
  }

  // Not initialised; 4-byte values.
  template <class T>
  T* take(int64_t count) {
    static_assert(sizeof(T) == 4);
    T* result = reinterpret_cast<T*>(block_.memory + used_);
    used_ += sizeof(T) * static_cast<size_t>(count);
    return result;
  }

 private:
  Block block_{nullptr, 0};
  size_t used_ = 0;
};

// What one SparseCore asks of one stack, duplicates merged: entries by SparseCore asked, then
// bucket (once dealt), local row and sample.
struct Asked {
  PoolMemory memory;
  int64_t entries = 0;
  int32_t* rows = nullptr;
  int32_t* samples = nullptr;
  float* gains = nullptr;
  const uint32_t* ids = nullptr;    // how many ids became each entry; null: nobody will ask, or 1
  const uint32_t* begin = nullptr;  // [sparsecores + 1]: the first entry of every partition

  // Of every partition's buckets; there is one bucket until they are dealt.
  int64_t buckets = 1;
  const uint32_t* counts = nullptr;  // [sparsecores, buckets]: entries
  const uint32_t* unique = nullptr;  // [sparsecores, buckets]: different rows
  const uint32_t* kept = nullptr;    // [sparsecores, buckets]: entries that were not dropped
  int64_t dropped = 0;               // ids
};

namespace merge_sorted {

// How many ids became each entry of a partition.
template <class E>
void count_ids(std::span<const Sorted<E>> groups, int64_t asked, uint32_t* ids) {
  --ids;
  for (const Sorted<E>& group : groups) {
    for (uint32_t i = group.bounds[asked]; i < group.bounds[asked + 1]; ++i) {
      const bool first = i == group.bounds[asked];
      if (first || group.entries[i].place != group.entries[i - 1].place) *++ids = 0;
      ++*ids;
    }
  }
}

}  // namespace merge_sorted

// Merges duplicates. `seen` gets every partition's entries, then different rows: [2, sparsecores].
template <class E>
Asked merged(std::span<const Sorted<E>> groups, const Stack& stack, const Shape& shape,
             int64_t* seen) {
  const int64_t cores = shape.sparsecores;
  int64_t ids = 0;
  for (const Sorted<E>& group : groups) ids += group.bounds[cores];
  Asked result;
  result.memory = PoolMemory(sizeof(int32_t) * (4 * static_cast<size_t>(ids) + 3 * cores + 1));
  result.rows = result.memory.take<int32_t>(ids);
  result.samples = result.memory.take<int32_t>(ids);
  result.gains = result.memory.take<float>(ids);
  auto* begin = result.memory.take<uint32_t>(cores + 1);
  auto* counts = result.memory.take<uint32_t>(cores);
  auto* unique = result.memory.take<uint32_t>(cores);
  const Target target{nullptr, result.rows, result.samples, result.gains, nullptr, nullptr};
  bool exceeds = false;
  for (int64_t asked = 0; asked < cores; ++asked) {
    write::Counts found;
    for (const Sorted<E>& group : groups) {
      write::merge(group.entries + group.bounds[asked], group.entries + group.bounds[asked + 1],
                   *group.group, target, result.entries, std::numeric_limits<int64_t>::max(),
                   found);
    }
    begin[asked] = static_cast<uint32_t>(result.entries);
    counts[asked] = static_cast<uint32_t>(found.ids);
    unique[asked] = static_cast<uint32_t>(found.unique);
    seen[asked] = found.ids;
    seen[cores + asked] = found.unique;
    exceeds |= found.ids > stack.max_ids || found.unique > stack.max_unique_ids;
    result.entries += found.ids;
  }
  begin[cores] = static_cast<uint32_t>(result.entries);
  result.begin = begin;
  result.counts = result.kept = counts;
  result.unique = unique;
  if (exceeds && result.entries < ids) {
    // Only then may an entry be left out that several ids became: they are counted each.
    auto* per_entry = result.memory.take<uint32_t>(ids);
    for (int64_t asked = 0; asked < cores; ++asked) {
      merge_sorted::count_ids(groups, asked, per_entry + begin[asked]);
    }
    result.ids = per_entry;
  }
  return result;
}

}  // namespace emberay
