#include "kernels/csrc/preprocess/deal.h"

#include <algorithm>
#include <limits>

#include "kernels/csrc/preprocess/cuts.h"
#include "kernels/csrc/preprocess/highway_hash.h"

namespace emberay {
namespace {

constexpr uint8_t kDropped = 255;  // in place of a bucket

// A SparseCore's entries, duplicates merged, by partition, local row and sample.
struct Merged {
  int32_t* rows;
  int32_t* samples;
  float* gains;
  const uint32_t* begin;   // [sparsecores + 1]
  const uint32_t* unique;  // [sparsecores]: different rows
  const uint32_t* ids;     // [entries]: how many ids became each

  static Merged of(const Asked& asked, const Shape& shape, Arena& arena) {
    auto* ids = arena.take<uint32_t>(asked.entries);
    const Merged merged{arena.take<int32_t>(asked.entries), arena.take<int32_t>(asked.entries),
                        arena.take<float>(asked.entries), asked.begin, asked.unique, ids};
    const Target target{nullptr, merged.rows, merged.samples, merged.gains, nullptr, nullptr};
    for (int64_t core = 0; core < shape.sparsecores; ++core) {
      const int64_t begin = merged.begin[core];
      asked.sorted->merge(core, target, begin, std::numeric_limits<int64_t>::max());
      asked.sorted->count_ids(core, ids + begin);
    }
    return merged;
  }
};

// Finds the bucket of every entry. A row is hashed once for all its entries.
void find_buckets(const Merged& merged, const Shape& shape, Arena& arena, uint8_t* buckets) {
  int64_t rows = 0;
  for (int64_t asked = 0; asked < shape.sparsecores; ++asked) rows += merged.unique[asked];
  auto* columns = arena.take<uint32_t>(rows);
  auto* bucket_of_row = arena.take<uint8_t>(rows);
  auto is_new = [&](int64_t i, int64_t begin) {
    return i == begin || merged.rows[i] != merged.rows[i - 1];
  };
  uint32_t* column = columns;
  for (int64_t asked = 0; asked < shape.sparsecores; ++asked) {
    const int64_t begin = merged.begin[asked], end = merged.begin[asked + 1];
    for (int64_t i = begin; i < end; ++i) {
      if (!is_new(i, begin)) continue;
      *column++ = static_cast<uint32_t>(merged.rows[i]) * static_cast<uint32_t>(shape.sparsecores) +
                  static_cast<uint32_t>(asked);
    }
  }
  buckets_of(columns, rows, bucket_of_row);
  const uint8_t* bucket = bucket_of_row - 1;
  for (int64_t asked = 0; asked < shape.sparsecores; ++asked) {
    const int64_t begin = merged.begin[asked], end = merged.begin[asked + 1];
    for (int64_t i = begin; i < end; ++i) {
      bucket += is_new(i, begin);
      buckets[i] = *bucket;
    }
  }
}

// Marks the entries of a partition that are beyond their bucket's limits, and returns how many ids
// they were.
int64_t drop(const Merged& merged, int64_t begin, int64_t end, const Stack& stack, uint8_t* buckets,
             uint32_t* kept) {
  int64_t ids[kBuckets] = {}, unique[kBuckets] = {};
  int64_t dropped = 0;
  std::fill_n(kept, kBuckets, 0);
  for (int64_t i = begin; i < end; ++i) {
    const uint8_t bucket = buckets[i];
    unique[bucket] += i == begin || merged.rows[i] != merged.rows[i - 1];
    if (ids[bucket]++ < stack.max_ids && unique[bucket] <= stack.max_unique_ids) {
      ++kept[bucket];
    } else {
      buckets[i] = kDropped;
      dropped += merged.ids[i];
    }
  }
  return dropped;
}

}  // namespace

Asked dealt(const Asked& asked, const Stack& stack, const Shape& shape, Arena& arena) {
  const int64_t cores = shape.sparsecores, entries = asked.entries, groups = cores * kBuckets;
  const Merged merged = Merged::of(asked, shape, arena);
  Asked result;
  result.memory = PoolMemory(3 * Arena::bytes<int32_t>(entries) +
                             3 * Arena::bytes<uint32_t>(groups) +
                             Arena::bytes<uint32_t>(cores + 1));
  result.entries = entries;
  result.rows = result.memory.take<int32_t>(entries);
  result.samples = result.memory.take<int32_t>(entries);
  result.gains = result.memory.take<float>(entries);
  auto* starts = result.memory.take<uint32_t>(cores + 1);
  auto* all_counts = result.memory.take<uint32_t>(groups);
  auto* all_unique = result.memory.take<uint32_t>(groups);
  auto* all_kept = result.memory.take<uint32_t>(groups);
  auto* buckets = arena.take<uint8_t>(entries);
  find_buckets(merged, shape, arena, buckets);
  std::copy_n(merged.begin, cores + 1, starts);
  std::fill_n(all_counts, groups, 0);
  std::fill_n(all_unique, groups, 0);

  for (int64_t core = 0; core < cores; ++core) {
    const int64_t begin = starts[core], end = starts[core + 1];
    uint32_t* counts = all_counts + core * kBuckets;
    uint32_t* unique = all_unique + core * kBuckets;
    uint32_t* kept = all_kept + core * kBuckets;
    for (int64_t i = begin; i < end; ++i) {
      ++counts[buckets[i]];
      unique[buckets[i]] += i == begin || merged.rows[i] != merged.rows[i - 1];
    }
    if (*std::max_element(counts, counts + kBuckets) > stack.max_ids ||
        *std::max_element(unique, unique + kBuckets) > stack.max_unique_ids) {
      result.dropped += drop(merged, begin, end, stack, buckets, kept);
    } else {
      std::copy_n(counts, kBuckets, kept);
    }
    int64_t next[kBuckets];
    int64_t start = begin;
    for (int64_t bucket = 0; bucket < kBuckets; ++bucket) {
      next[bucket] = start;
      start += kept[bucket];
    }
    for (int64_t i = begin; i < end; ++i) {
      if (buckets[i] == kDropped) continue;
      const int64_t to = next[buckets[i]]++;
      result.rows[to] = merged.rows[i];
      result.samples[to] = merged.samples[i];
      result.gains[to] = merged.gains[i];
    }
  }
  result.begin = starts;
  result.buckets = kBuckets;
  result.counts = all_counts;
  result.unique = all_unique;
  result.kept = all_kept;
  return result;
}

uint64_t cuts_for(const Asked& dealt, const Stack& stack, const Shape& shape) {
  uint64_t bits = 0;
  for (int64_t asked = 0; asked < shape.sparsecores; ++asked) {
    bits |= cuts_for(dealt.counts + asked * kBuckets, stack.max_ids);
    bits |= cuts_for(dealt.unique + asked * kBuckets, stack.max_unique_ids);
  }
  return bits;
}

}  // namespace emberay
