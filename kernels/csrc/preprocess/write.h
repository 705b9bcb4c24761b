// The last pass: sorted entries become one SparseCore's buffer.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>

#include "kernels/csrc/preprocess/input.h"
#include "kernels/csrc/preprocess/sort.h"

namespace emberay {

// Where one SparseCore's output goes.
struct Target {
  int32_t* row_pointers;
  int32_t* embedding_ids;
  int32_t* sample_ids;
  float* gains;
  int64_t* ids_seen;     // [sparsecores]
  int64_t* unique_seen;  // [sparsecores]
};

struct Written {
  int64_t required = 0;  // entries, every partition at its full size, aligned
  int64_t dropped = 0;
  bool exceeds = false;  // whether anything had to be, or did not fit
};

namespace write {

inline void pad(const Target& target, int64_t begin, int64_t end) {
  std::fill(target.embedding_ids + begin, target.embedding_ids + end, kUnused);
  std::fill(target.sample_ids + begin, target.sample_ids + end, kUnused);
  std::fill(target.gains + begin, target.gains + end, std::numeric_limits<float>::quiet_NaN());
}

struct Counts {
  int64_t ids = 0;
  int64_t unique = 0;
};

// Merges the duplicates of one group's part of a partition into target at `start`, behind what
// `counts` says is there already, as far as there is `room`.
template <class E>
void merge(const E* entry, const E* end, const Group& group, const Target& target, int64_t start,
           int64_t room, Counts& counts) {
  using Place = typename E::Place;
  int32_t* ids = target.embedding_ids + start;
  int32_t* samples = target.sample_ids + start;
  float* gains = target.gains + start;
  const unsigned sample_bits = group.sample_bits;
  const auto row_mask = static_cast<uint32_t>((uint64_t{1} << group.row_bits) - 1);
  const auto sample_mask = static_cast<uint32_t>((uint64_t{1} << sample_bits) - 1);
  const auto first_row = static_cast<uint32_t>(group.first_row);
  const auto first_sample = static_cast<uint32_t>(group.first_sample);
  if (entry == end) return;
  Place before = ~entry->place;  // differs, in row as well
  int64_t last = counts.ids - 1, unique = counts.unique;
  float total = 0;
  for (; entry != end; ++entry) {
    const Place place = entry->place;
    const bool is_new = place != before;
    unique += (place >> sample_bits) != (before >> sample_bits);
    before = place;
    float gain = 1.0f;
    if constexpr (E::kWeighted) gain = entry->gain;
    last += is_new;
    total = is_new ? gain : total + gain;
    if (last < room) {
      ids[last] = static_cast<int32_t>((static_cast<uint32_t>(place >> sample_bits) & row_mask) +
                                       first_row);
      samples[last] =
          static_cast<int32_t>((static_cast<uint32_t>(place) & sample_mask) + first_sample);
      gains[last] = total;
    }
  }
  counts = {last + 1, unique};
}

struct Kept {
  int64_t within = 0;   // entries within both limits
  int64_t dropped = 0;  // every id beyond a limit; an entry beyond the buffer once
};

// What is left of a partition that does not fit. Counts as jax-tpu-embedding does.
template <class E>
Kept keep(std::span<const Sorted<E>> groups, int64_t asked, const Stack& stack, int64_t room) {
  Kept kept;
  int64_t rank = -1, unique = 0;
  for (const Sorted<E>& group : groups) {
    const unsigned sample_bits = group.group->sample_bits;
    for (uint32_t i = group.bounds[asked]; i < group.bounds[asked + 1]; ++i) {
      const auto place = group.entries[i].place;
      const bool first = i == group.bounds[asked];
      const auto before = first ? ~place : group.entries[i - 1].place;
      const bool is_new = place != before;
      unique += (place >> sample_bits) != (before >> sample_bits);
      rank += is_new;
      if (rank >= stack.max_ids || unique > stack.max_unique_ids) {
        ++kept.dropped;
      } else if (is_new) {
        ++kept.within;
        kept.dropped += rank >= room;
      }
    }
  }
  return kept;
}

}  // namespace write

// Writes partitions, row pointers and padding of one SparseCore, within its buffer whatever comes.
template <class E>
Written write_buffer(std::span<const Sorted<E>> groups, const Stack& stack, const Shape& shape,
                     const Target& target) {
  Written result;
  int64_t start = 0;
  for (int64_t asked = 0; asked < shape.sparsecores; ++asked) {
    const int64_t room = stack.buffer - start;
    write::Counts counts;
    for (const Sorted<E>& group : groups) {
      write::merge(group.entries + group.bounds[asked], group.entries + group.bounds[asked + 1],
                   *group.group, target, start, room, counts);
    }
    int64_t within = counts.ids, left = counts.ids;
    if (counts.ids > stack.max_ids || counts.unique > stack.max_unique_ids || counts.ids > room) {
      const auto kept = write::keep(groups, asked, stack, room);
      within = kept.within;
      left = std::min(within, room);
      result.dropped += kept.dropped;
      result.exceeds = true;
    }
    target.ids_seen[asked] = counts.ids;
    target.unique_seen[asked] = counts.unique;
    result.required += aligned(counts.ids);
    target.row_pointers[asked] = static_cast<int32_t>(start + left);
    const int64_t next = std::min(start + aligned(within), stack.buffer);
    write::pad(target, start + left, next);
    start = next;
  }
  std::fill(target.row_pointers + shape.sparsecores, target.row_pointers + shape.pointers(),
            static_cast<int32_t>(start));
  write::pad(target, start, stack.buffer);
  result.exceeds |= result.required > stack.buffer;
  return result;
}

}  // namespace emberay
