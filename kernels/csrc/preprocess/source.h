// The first half of preprocessing: one stack's ids on one SparseCore, checked and sorted.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <mutex>
#include <optional>
#include <span>

#include "kernels/csrc/preprocess/arena.h"
#include "kernels/csrc/preprocess/extract.h"
#include "kernels/csrc/preprocess/input.h"
#include "kernels/csrc/preprocess/sort.h"
#include "kernels/csrc/preprocess/thread_pool.h"

namespace emberay {

constexpr int64_t kMostIds = std::numeric_limits<int32_t>::max();

// What one SparseCore asks of one stack.
struct Source {
  std::span<const Feature> features;  // of the batch
  const Stack& stack;
  const Shape& shape;
  int64_t number;  // of the SparseCore on this process
  Arena& arena;
  Trouble trouble{};

  // Sorts into the memory (an Arena or like it) that memory_for(bytes) gives, and calls
  // consume(std::span<const Sorted<E>>), the entries being of some type E; not if there is trouble.
  template <class MemoryFor, class Consume>
  void sort(const MemoryFor& memory_for, const Consume& consume) {
    const std::span<Share> shares = locate_all();
    if (trouble.code != Code::kNone) return;
    if (shares.empty()) return;
    const std::span<Group> groups = make_groups(shares, shape.sparsecores, arena);
    const bool weighted = std::any_of(shares.begin(), shares.end(), [](const Share& share) {
      return share.feature->gains != nullptr || share.feature->combiner != Combiner::kSum;
    });
    weighted ? sort_groups<true>(groups, memory_for, consume)
             : sort_groups<false>(groups, memory_for, consume);
  }

 private:
  void note(const Trouble& found) {
    if (trouble.code == Code::kNone) trouble = found;
  }

  std::span<Share> locate_all() {
    auto* shares = arena.take<Share>(stack.num_features);
    int64_t ids = 0;
    for (int64_t i = 0; i < stack.num_features; ++i) {
      const int64_t feature_number = stack.first_feature + i;
      const Feature& feature = features[feature_number];
      const int64_t samples = feature.samples / shape.sources();
      shares[i] = Share{};
      shares[i].feature = &feature;
      shares[i].number = feature_number;
      shares[i].first = number * samples;
      shares[i].samples = samples;
      note(locate(shares[i], arena));
      ids += shares[i].ids;
      if (ids > kMostIds) note({Code::kTooMany, feature_number, 0});
    }
    return {shares, static_cast<size_t>(stack.num_features)};
  }

  // Fills keys and gains of a group. Returns whether it has padding.
  template <class Key>
  bool take(const Group& group, Key* keys, float* scaled) {
    bool has_padding = false;
    for (Share& share : group.shares) {
      const Feature& feature = *share.feature;
      const KeyRule rule{static_cast<uint64_t>(feature.vocabulary),
                         static_cast<uint64_t>(shape.sparsecores),
                         static_cast<uint64_t>(feature.shift),
                         static_cast<uint64_t>(feature.row_add - group.first_row), group.row_bits};
      note(feature.wide_ids ? take_keys<int64_t>(share, rule, keys)
                            : take_keys<int32_t>(share, rule, keys));
      if (trouble.code != Code::kNone) break;
      if (feature.gains != nullptr) {
        note(take_gains(share, keys, scaled));
      } else {
        count_gains(share, keys, arena);
      }
      has_padding |= share.has_padding;
      keys += share.ids;
      scaled += scaled == nullptr ? 0 : share.ids;
    }
    return has_padding;
  }

  template <class Key, class E, class MemoryFor, class Consume>
  void sort_entries(std::span<const Group> groups, const MemoryFor& memory_for,
                    const Consume& consume) {
    SortScratch<Key, E> scratch(groups, arena);
    size_t bytes = 0;
    for (const Group& group : groups) {
      bytes += Arena::bytes<E>(group.ids) + Arena::bytes<uint32_t>(shape.sparsecores + 1);
    }
    auto& memory = memory_for(bytes);
    auto* sorted = arena.take<Sorted<E>>(static_cast<int64_t>(groups.size()));
    for (size_t i = 0; i < groups.size(); ++i) {
      const bool has_padding = take(groups[i], scratch.keys, scratch.gains);
      if (trouble.code != Code::kNone) return;
      sorted[i] = sort_group(groups[i], has_padding, shape.sparsecores, scratch, memory);
    }
    consume(std::span<const Sorted<E>>(sorted, groups.size()));
  }

  template <bool kWeighted, class MemoryFor, class Consume>
  void sort_groups(std::span<const Group> groups, const MemoryFor& memory_for,
                   const Consume& consume) {
    unsigned key_bits = 0, place_bits = 0;
    for (const Group& group : groups) {
      key_bits = std::max(key_bits, group.key_bits);
      place_bits = std::max(place_bits, group.key_bits + group.sample_bits);
    }
    if (key_bits <= 31 && place_bits <= 32) {
      sort_entries<uint32_t, Entry<uint32_t, kWeighted>>(groups, memory_for, consume);
    } else if (key_bits <= 31) {
      sort_entries<uint32_t, Entry<uint64_t, kWeighted>>(groups, memory_for, consume);
    } else if (place_bits <= 64) {
      sort_entries<uint64_t, Entry<uint64_t, kWeighted>>(groups, memory_for, consume);
    } else {
      note({Code::kTooMany, groups[0].shares[0].number, 0});
    }
  }
};

constexpr int64_t kIdsWorthAThread = 2048;

// Calls task(i, scratch) for every i in [0, count), on all threads if so many ids are worth it.
inline void run_tasks(int64_t count, int64_t ids, const Task& task) {
  ThreadPool& pool = ThreadPool::get();
  if (ids >= kIdsWorthAThread) {
    pool.run(count, task);
    return;
  }
  pool.run(1, [&](int64_t, Arena& arena) {
    for (int64_t number = 0; number < count; ++number) {
      arena.reset();
      task(number, arena);
    }
  });
}

inline int64_t ids_of(std::span<const Feature> features) {
  int64_t ids = 0;
  for (const Feature& feature : features) ids += feature.num_ids;
  return ids;
}

// Calls task(i, scratch) for every i in [0, count); or for some, and returns false, if that has no
// use. Task i is of stack i / (count / number of stacks), whose features have to be there by then.
using RunTasks = std::function<bool(int64_t count, const Task& task)>;

// Sorts what every SparseCore of this process asks of every stack, into the memory that
// memory_for(task, bytes, scratch) gives, and calls consume(task, sorted), task being
// stack * sources + SparseCore. Returns one trouble, if any; nothing if that had no use.
template <class MemoryFor, class Consume>
std::optional<Trouble> sort_sources(std::span<const Feature> features,
                                    std::span<const Stack> stacks, const Shape& shape,
                                    const RunTasks& run_tasks, const MemoryFor& memory_for,
                                    const Consume& consume) {
  const int64_t sources = shape.sources();
  std::mutex guard;
  Trouble trouble;
  auto run = [&](int64_t task, Arena& arena) {
    Source source{features, stacks[task / sources], shape, task % sources, arena};
    source.sort([&](size_t bytes) -> auto& { return memory_for(task, bytes, arena); },
                [&](auto sorted) { consume(task, sorted); });
    if (source.trouble.code != Code::kNone) {
      std::lock_guard<std::mutex> lock(guard);
      if (trouble.code == Code::kNone) trouble = source.trouble;
    }
  };
  if (!run_tasks(static_cast<int64_t>(stacks.size()) * sources, run)) return {};
  return trouble;
}

}  // namespace emberay
