// What one SparseCore asks of one stack, kept from one step of minibatching to the next.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "kernels/csrc/preprocess/arena.h"
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

  // Not initialised, at a multiple of 64 bytes. The sum must be what the constructor was told.
  template <class T>
  T* take(int64_t count) {
    T* result = reinterpret_cast<T*>(block_.memory + used_);
    used_ += Arena::bytes<T>(count);
    return result;
  }

 private:
  Block block_{nullptr, 0};
  size_t used_ = 0;
};

// Sorted entries of some type, duplicates not merged.
class SortedIds {
 public:
  virtual ~SortedIds() = default;

  // Entries and different rows of a partition.
  virtual write::Counts count(int64_t asked) const = 0;

  // Writes the entries of a partition to `start`, as far as there is room.
  virtual void merge(int64_t asked, const Target& target, int64_t start, int64_t room) const = 0;

  // Writes how many ids became each entry of a partition.
  virtual void count_ids(int64_t asked, uint32_t* ids) const = 0;
};

template <class E>
class SortedIdsOf : public SortedIds {
 public:
  explicit SortedIdsOf(std::span<const Sorted<E>> sorted) : sorted_(sorted.begin(), sorted.end()) {
    groups_.reserve(sorted.size());
    for (Sorted<E>& one : sorted_) {
      groups_.push_back(*one.group);
      groups_.back().shares = {};  // they are gone
      one.group = &groups_.back();
    }
  }

  write::Counts count(int64_t asked) const override {
    write::Counts counts;
    for (const Sorted<E>& group : sorted_) {
      const E* entry = group.entries + group.bounds[asked];
      const E* end = group.entries + group.bounds[asked + 1];
      if (entry == end) continue;
      const unsigned sample_bits = group.group->sample_bits;
      uint32_t ids = 1, unique = 1;
      for (++entry; entry < end; ++entry) {
        const auto changed = entry[0].place ^ entry[-1].place;
        ids += changed != 0;
        unique += (changed >> sample_bits) != 0;
      }
      counts.ids += ids;
      counts.unique += unique;
    }
    return counts;
  }

  void merge(int64_t asked, const Target& target, int64_t start, int64_t room) const override {
    write::Counts counts;
    for (const Sorted<E>& group : sorted_) {
      write::merge(group.entries + group.bounds[asked], group.entries + group.bounds[asked + 1],
                   *group.group, target, start, room, counts);
    }
  }

  void count_ids(int64_t asked, uint32_t* ids) const override {
    --ids;
    for (const Sorted<E>& group : sorted_) {
      for (uint32_t i = group.bounds[asked]; i < group.bounds[asked + 1]; ++i) {
        const bool first = i == group.bounds[asked];
        if (first || group.entries[i].place != group.entries[i - 1].place) *++ids = 0;
        ++*ids;
      }
    }
  }

 private:
  std::vector<Sorted<E>> sorted_;
  std::vector<Group> groups_;
};

// Entries by SparseCore asked, then bucket (once dealt), local row and sample.
struct Asked {
  PoolMemory memory;
  std::unique_ptr<SortedIds> sorted;  // until they are dealt
  int64_t entries = 0;
  int32_t* rows = nullptr;  // [entries], once dealt; likewise samples and gains
  int32_t* samples = nullptr;
  float* gains = nullptr;

  // Of every partition's buckets; there is one bucket until they are dealt.
  int64_t buckets = 1;
  const uint32_t* begin = nullptr;   // [sparsecores + 1]: first entry; partitions have no buckets
  const uint32_t* counts = nullptr;  // [sparsecores, buckets]: entries
  const uint32_t* unique = nullptr;  // [sparsecores, buckets]: different rows
  const uint32_t* kept = nullptr;    // [sparsecores, buckets]: entries that were not dropped
  int64_t dropped = 0;               // ids
};

}  // namespace emberay
