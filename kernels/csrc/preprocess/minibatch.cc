#include "kernels/csrc/preprocess/minibatch.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "kernels/csrc/preprocess/cuts.h"
#include "kernels/csrc/preprocess/deal.h"
#include "kernels/csrc/preprocess/encode.h"
#include "kernels/csrc/preprocess/source.h"

namespace emberay {
namespace {

// Entries that a SparseCore takes in its device's buffer, partitions aligned; per partition as many
// as `counts` of its buckets say.
int64_t taken(const Asked& asked, const uint32_t* counts, int64_t sparsecores, const Runs& runs) {
  int64_t entries = 0;
  for (int64_t core = 0; core < sparsecores; ++core, counts += asked.buckets) {
    for (int64_t run = 0; run < runs.count; ++run) {
      int64_t partition = 0;
      for (int64_t bucket = runs.begin[run]; bucket < runs.begin[run + 1]; ++bucket) {
        partition += counts[bucket];
      }
      entries += aligned(partition);
    }
  }
  return entries;
}

void copy(const Asked& asked, int64_t from, int64_t count, const Target& target, int64_t to) {
  std::memcpy(target.embedding_ids + to, asked.rows + from, sizeof(int32_t) * count);
  std::memcpy(target.sample_ids + to, asked.samples + from, sizeof(int32_t) * count);
  std::memcpy(target.gains + to, asked.gains + from, sizeof(float) * count);
}

// Writes partitions and row pointers of one SparseCore to its device's buffer of so many entries,
// from `start` on. Returns the entries for which there was no room.
int64_t write_source(const Asked& asked, const Shape& shape, const Runs& runs, int64_t start,
                     int64_t size, const Target& target, Arena& arena) {
  int32_t* pointers = target.row_pointers;
  auto* next = arena.take<uint32_t>(shape.sparsecores);  // entry of every partition
  std::copy_n(asked.begin, shape.sparsecores, next);
  int64_t dropped = 0;
  for (int64_t run = 0; run < runs.count; ++run, pointers += shape.pointers()) {
    for (int64_t core = 0; core < shape.sparsecores; ++core) {
      const uint32_t* kept = asked.kept + core * asked.buckets;
      int64_t count = 0;
      for (int64_t bucket = runs.begin[run]; bucket < runs.begin[run + 1]; ++bucket) {
        count += kept[bucket];
      }
      const int64_t left = std::min(count, size - start);
      const int64_t end = std::min(start + aligned(count), size);
      if (asked.sorted != nullptr) {
        asked.sorted->merge(core, target, start, size - start);
      } else {
        copy(asked, next[core], left, target, start);
      }
      write::pad(target, start + left, end);
      pointers[core] = static_cast<int32_t>(start + left);
      next[core] += static_cast<uint32_t>(count);
      dropped += count - left;
      start = end;
    }
    std::fill(pointers + shape.sparsecores, pointers + shape.pointers(),
              static_cast<int32_t>(start));
  }
  return dropped;
}

}  // namespace

MinibatchedBatch::MinibatchedBatch(std::vector<Stack> stacks, const Shape& shape)
    : stacks_(std::move(stacks)),
      shape_(shape),
      asked_(stacks_.size() * shape.sources()),
      seen_(asked_.size() * 2 * shape.sparsecores),
      needs_(stacks_.size()) {}

Trouble MinibatchedBatch::sort(std::span<const Feature> features, const RunTasks& run_tasks) {
  const int64_t cores = shape_.sparsecores;
  auto memory_for = [&](int64_t task, size_t bytes, Arena&) -> PoolMemory& {
    const size_t counts = Arena::bytes<uint32_t>(cores + 1) + 2 * Arena::bytes<uint32_t>(cores);
    return asked_[task].memory = PoolMemory(bytes + counts);
  };
  auto count = [&]<class E>(int64_t task, std::span<const Sorted<E>> sorted) {
    Asked& asked = asked_[task];
    int64_t* seen = seen_.data() + task * 2 * cores;
    auto* begin = asked.memory.take<uint32_t>(cores + 1);
    auto* counts = asked.memory.take<uint32_t>(cores);
    auto* unique = asked.memory.take<uint32_t>(cores);
    asked.sorted = std::make_unique<SortedIdsOf<E>>(sorted);
    for (int64_t core = 0; core < cores; ++core) {
      const write::Counts found = asked.sorted->count(core);
      begin[core] = static_cast<uint32_t>(asked.entries);
      counts[core] = static_cast<uint32_t>(seen[core] = found.ids);
      unique[core] = static_cast<uint32_t>(seen[cores + core] = found.unique);
      asked.entries += found.ids;
    }
    begin[cores] = static_cast<uint32_t>(asked.entries);
    asked.begin = begin;
    asked.counts = asked.kept = counts;
    asked.unique = unique;
  };
  const auto trouble = sort_sources(features, stacks_, shape_, run_tasks, memory_for, count);
  if (!trouble || trouble->code != Code::kNone) return trouble.value_or(Trouble{});
  ids_ = ids_of(features);
  measure();
  for (size_t i = 0; i < stacks_.size(); ++i) {
    exceeds_ |= needs_[i].ids > stacks_[i].max_ids;
    exceeds_ |= needs_[i].unique_ids > stacks_[i].max_unique_ids;
  }
  return {};
}

uint64_t MinibatchedBatch::deal() {
  std::atomic<uint64_t> bits{0};
  run_tasks(tasks(), ids_, [&](int64_t task, Arena& arena) {
    const Stack& stack = stacks_[task / shape_.sources()];
    asked_[task] = dealt(asked_[task], stack, shape_, arena);
    bits |= cuts_for(asked_[task], stack, shape_);
  });
  dealt_ = true;
  measure();
  return bits;
}

void MinibatchedBatch::measure() {
  for (int64_t task = 0; task < tasks(); ++task) {
    const Asked& asked = asked_[task];
    const int64_t groups = shape_.sparsecores * asked.buckets;
    Needs& needs = needs_[task / shape_.sources()];
    if (task % shape_.sources() == 0) needs = {};
    const int64_t ids = *std::max_element(asked.counts, asked.counts + groups);
    const int64_t unique_ids = *std::max_element(asked.unique, asked.unique + groups);
    needs.ids = std::max(needs.ids, ids);
    needs.unique_ids = std::max(needs.unique_ids, unique_ids);
  }
}

void MinibatchedBatch::write(uint64_t cuts) {
  const Runs runs = dealt_ ? Runs::of(cuts) : Runs::whole(1);
  const int64_t sources = shape_.sources(), per_device = shape_.per_device;
  const int64_t pointers = shape_.most_minibatches * shape_.pointers();  // of a SparseCore
  struct Place {
    int64_t needed, taken, start, end, dropped;
  };
  std::vector<Place> places(asked_.size());
  run_tasks(tasks(), ids_, [&](int64_t task, Arena&) {
    const Asked& asked = asked_[task];
    places[task].needed = taken(asked, asked.counts, shape_.sparsecores, runs);
    places[task].taken = asked.dropped == 0
                             ? places[task].needed
                             : taken(asked, asked.kept, shape_.sparsecores, runs);
  });
  for (int64_t first = 0; first < tasks(); first += per_device) {
    const Stack& stack = stacks_[first / sources];
    const int64_t size = stack.buffer * per_device;
    int64_t end = 0, needed = 0;
    for (int64_t task = first; task < first + per_device; ++task) {
      places[task].start = end;
      end = std::min(end + places[task].taken, size);
      needed += places[task].needed;
    }
    for (int64_t task = first; task < first + per_device; ++task) places[task].end = end;
    Needs& needs = needs_[first / sources];
    needs.entries = std::max(needs.entries, needed);
  }
  run_tasks(tasks(), ids_, [&](int64_t task, Arena& arena) {
    const Stack& stack = stacks_[task / sources];
    const int64_t source = task % sources, core = source % per_device;
    const int64_t first = (source - core) * stack.buffer;  // of the device's buffer
    const int64_t size = stack.buffer * per_device;
    int32_t* of_device = stack.row_pointers + (source - core) * pointers;
    const Target target{of_device + core * runs.count * shape_.pointers(),
                        stack.embedding_ids + first,
                        stack.sample_ids + first,
                        stack.gains + first,
                        nullptr,
                        nullptr};
    Place& place = places[task];
    place.dropped = write_source(asked_[task], shape_, runs, place.start, size, target, arena);
    // What is not used of the device's buffer and pointers is shared between its SparseCores.
    auto share = [&](int64_t begin, int64_t end, int64_t number) {
      return begin + (end - begin) * number / per_device;
    };
    write::pad(target, share(place.end, size, core), share(place.end, size, core + 1));
    const int64_t used = per_device * runs.count * shape_.pointers();
    std::fill(of_device + share(used, per_device * pointers, core),
              of_device + share(used, per_device * pointers, core + 1),
              static_cast<int32_t>(place.end));
  });
  for (size_t i = 0; i < stacks_.size(); ++i) {
    Stack& stack = stacks_[i];
    const auto first = static_cast<int64_t>(i) * sources;
    const int64_t* seen = seen_.data() + first * 2 * shape_.sparsecores;
    write_statistics(stack, shape_, seen);
    for (int64_t source = 0; source < sources; ++source) {
      int64_t required = 0;
      for (int64_t asked = 0; asked < shape_.sparsecores; ++asked) {
        required += aligned(seen[source * 2 * shape_.sparsecores + asked]);
      }
      stack.required[source] = static_cast<int32_t>(std::min(required, kMostIds));
      stack.dropped += asked_[first + source].dropped + places[first + source].dropped;
    }
  }
}

}  // namespace emberay
