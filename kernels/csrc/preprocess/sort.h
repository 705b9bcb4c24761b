// Entries and their order: a stable radix sort by key, straight from the features' shares.
//
// Tables of a stack lie behind one another in a shard, so each can be sorted on its own (a group):
// fewer bits, and data that stays in the nearer caches. Small tables are sorted together.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>

#include "kernels/csrc/preprocess/arena.h"
#include "kernels/csrc/preprocess/extract.h"

namespace emberay {

// One id that is asked for: | SparseCore asked | row | sample |, and its gain.
template <class P, bool kWeighted>
struct Entry;

template <class P>
struct Entry<P, false> {
  using Place = P;
  static constexpr bool kWeighted = false;
  P place;
};

template <class P>
struct Entry<P, true> {
  using Place = P;
  static constexpr bool kWeighted = true;
  P place;
  float gain;
};

inline unsigned bits_for(int64_t values) {  // of numbers below `values`
  return static_cast<unsigned>(std::bit_width(static_cast<uint64_t>(values) - 1));
}

// How a key is cut into digits.
struct Digits {
  unsigned bits;    // of one digit
  unsigned passes;  // digits of a key
  double cost;      // nanoseconds, roughly

  // The cheapest way for so many entries: few passes, but counters in the nearest cache.
  static Digits of(unsigned key_bits, unsigned sample_bits, int64_t entries) {
    constexpr unsigned kMostBits = 12;
    Digits best{1, 1, -1};
    const double of_width = key_bits + sample_bits > 32 ? 0.4 : 0;  // more to move
    for (unsigned passes = 1; passes <= 16; ++passes) {
      const unsigned bits = std::max((key_bits + passes - 1) / passes, 1u);
      if (bits > kMostBits) continue;
      const double of_entry = bits <= 8 ? 1.2 : bits <= 10 ? 1.5 : bits == 11 ? 1.9 : 2.5;
      const double of_count = passes > 2 ? 0.5 : 0;
      const double cost =
          static_cast<double>(entries) * (passes * (of_entry + of_width) + of_count) +
          passes * (1 << bits) * 0.7;
      if (best.cost < 0 || cost < best.cost) best = {bits, passes, cost};
      if (bits <= 4) break;
    }
    return best;
  }
};

// Features whose ids are sorted together.
struct Group {
  std::span<Share> shares;
  int64_t ids = 0;
  int64_t first_row = 0;  // the lowest row of its tables
  int64_t rows = 0;
  int64_t first_sample = 0;
  int64_t samples = 0;
  unsigned row_bits = 0, sample_bits = 0, key_bits = 0;
  Digits digits{};

  static Group of(std::span<Share> shares, int64_t sparsecores) {
    Group group;
    group.shares = shares;
    group.first_row = shares[0].feature->row_add;
    group.first_sample = shares[0].feature->first_sample;
    for (const Share& share : shares) {
      group.ids += share.ids;
      group.first_sample = std::min(group.first_sample, share.feature->first_sample);
      group.rows = std::max(group.rows, share.end_row(sparsecores) - group.first_row);
    }
    for (const Share& share : shares) {
      const int64_t last = share.feature->first_sample + share.samples;
      group.samples = std::max(group.samples, last - group.first_sample);
    }
    group.row_bits = bits_for(group.rows);
    group.sample_bits = bits_for(std::max<int64_t>(group.samples, 1));
    group.key_bits = group.row_bits + bits_for(sparsecores);
    group.digits = Digits::of(group.key_bits, group.sample_bits, group.ids);
    return group;
  }
};

// A stack's shares, cut into groups.
struct Cut {
  Group* groups;
  size_t count = 0;
  double cost = 0;
  bool overlap = false;  // whether a table begins within the rows of the group before

  // Cuts shares, sorted by row, after every so many tables.
  void after(size_t tables, std::span<Share> shares, int64_t sparsecores) {
    *this = {groups};
    for (size_t begin = 0, end; begin < shares.size(); begin = end) {
      size_t seen = 1;
      for (end = begin + 1; end < shares.size(); ++end) {
        if (shares[end].feature->row_add == shares[end - 1].feature->row_add) continue;
        if (++seen > tables) break;
      }
      const Group group = Group::of(shares.subspan(begin, end - begin), sparsecores);
      cost += group.digits.cost;
      overlap |= end < shares.size() &&
                 group.first_row + group.rows > shares[end].feature->row_add;
      groups[count++] = group;
    }
  }
};

// The cheapest way to group a stack's shares, which it sorts by row and sample.
inline std::span<Group> make_groups(std::span<Share> shares, int64_t sparsecores, Arena& arena) {
  std::sort(shares.begin(), shares.end(), [](const Share& a, const Share& b) {
    if (a.feature->row_add != b.feature->row_add) return a.feature->row_add < b.feature->row_add;
    return a.feature->first_sample < b.feature->first_sample;
  });
  const auto most = static_cast<int64_t>(shares.size());
  Cut best{arena.take<Group>(most)}, next{arena.take<Group>(most)};
  best.after(1, shares, sparsecores);
  size_t count = best.count;
  for (size_t tables = 2; count > 1; tables *= 2) {
    next.after(tables, shares, sparsecores);
    count = next.count;
    if (best.overlap || (!next.overlap && next.cost < best.cost)) std::swap(best, next);
  }
  return {best.groups, best.count};
}

// A group's entries in order. Partition p is [bounds[p], bounds[p + 1]).
template <class E>
struct Sorted {
  const E* entries;
  const uint32_t* bounds;  // [sparsecores + 1]
  const Group* group;
};

// Memory that groups use one after another.
template <class Key, class E>
struct SortScratch {
  Key* keys;
  float* gains;
  E* entries;
  uint32_t* counters;

  SortScratch(std::span<const Group> groups, Arena& arena) {
    int64_t ids = 0, most = 0;
    for (const Group& group : groups) {
      ids = std::max(ids, group.ids);
      most = std::max(most, int64_t{group.digits.passes} << group.digits.bits);
    }
    keys = arena.take<Key>(ids);
    gains = E::kWeighted ? arena.take<float>(ids) : nullptr;
    entries = arena.take<E>(ids);
    counters = arena.take<uint32_t>(most);
  }
};

namespace sort {

template <class Key>
void count_digits(const Key* keys, int64_t count, bool has_padding, Digits digits,
                  uint32_t* counters) {
  const uint32_t size = 1u << digits.bits, mask = size - 1;
  std::memset(counters, 0, sizeof(uint32_t) * size * digits.passes);
  if (digits.passes == 3 && !has_padding) {
    uint32_t *middle = counters + size, *high = middle + size;
    for (int64_t i = 0; i < count; ++i) {
      ++counters[static_cast<uint32_t>(keys[i]) & mask];
      ++middle[static_cast<uint32_t>(keys[i] >> digits.bits) & mask];
      ++high[static_cast<uint32_t>(keys[i] >> 2 * digits.bits) & mask];
    }
  } else if (digits.passes == 2 && !has_padding) {
    uint32_t* high = counters + size;
    for (int64_t i = 0; i < count; ++i) {
      ++counters[static_cast<uint32_t>(keys[i]) & mask];
      ++high[static_cast<uint32_t>(keys[i] >> digits.bits) & mask];
    }
  } else {
    for (int64_t i = 0; i < count; ++i) {
      if (has_padding && keys[i] == kPaddingKey<Key>) continue;
      uint32_t* pass = counters;
      for (unsigned shift = 0; shift < digits.passes * digits.bits; shift += digits.bits) {
        ++pass[static_cast<uint32_t>(keys[i] >> shift) & mask];
        pass += size;
      }
    }
  }
  for (unsigned pass = 0; pass < digits.passes; ++pass) {
    uint32_t sum = 0;
    for (uint32_t* next = counters; next != counters + size; ++next) {
      sum += std::exchange(*next, sum);
    }
    counters += size;
  }
}

// The first pass: from keys and gains of a share to entries by their lowest digit.
template <bool kPadding, class E, class Key, class GainOf>
void scatter_share(const Share& share, const Key* keys, GainOf gain_of, int64_t first_sample,
                   unsigned sample_bits, uint32_t mask, uint32_t* next, E* out) {
  using Place = typename E::Place;
  auto emit = [&](int64_t i, int64_t sample) {
    const Key key = keys[i];
    if constexpr (kPadding) {
      if (key == kPaddingKey<Key>) return;
    }
    E& entry = out[next[static_cast<uint32_t>(key) & mask]++];
    entry.place =
        static_cast<Place>(key) << sample_bits | static_cast<Place>(first_sample + sample);
    if constexpr (E::kWeighted) entry.gain = gain_of(i, sample);
  };
  if (share.ends == nullptr && share.valency == 1) {
    for (int64_t i = 0; i < share.samples; ++i) emit(i, i);
    return;
  }
  int64_t i = 0;
  for (int64_t sample = 0; sample < share.samples; ++sample) {
    for (const int64_t end = share.end(sample); i < end; ++i) emit(i, sample);
  }
}

template <bool kPadding, class E, class Key>
void scatter_shares(const Group& group, const Key* keys, uint32_t* next, E* out) {
  const uint32_t mask = (1u << group.digits.bits) - 1;
  for (const Share& share : group.shares) {
    auto scatter = [&](auto gain_of) {
      const int64_t first_sample = share.feature->first_sample - group.first_sample;
      scatter_share<kPadding>(share, keys, gain_of, first_sample, group.sample_bits, mask, next,
                              out);
    };
    if (share.gains != nullptr) {
      scatter([gains = share.gains](int64_t i, int64_t) { return gains[i]; });
    } else if (share.gain_of_sample != nullptr) {
      scatter([gains = share.gain_of_sample](int64_t, int64_t sample) { return gains[sample]; });
    } else {
      scatter([](int64_t, int64_t) { return 1.0f; });
    }
    keys += share.ids;
  }
}

template <class E>
void scatter_again(const E* from, int64_t count, unsigned shift, uint32_t mask, uint32_t* next,
                   E* to) {
  for (int64_t i = 0; i < count; ++i) {
    to[next[static_cast<uint32_t>(from[i].place >> shift) & mask]++] = from[i];
  }
}

}  // namespace sort

// Sorts a group whose keys and gains are there: by key; entries of equal keys stay in the order of
// the shares, and so of samples.
template <class Key, class E, class Memory>
Sorted<E> sort_group(const Group& group, bool has_padding, int64_t sparsecores,
                     SortScratch<Key, E>& scratch, Memory& memory) {
  const Digits digits = group.digits;
  const uint32_t size = 1u << digits.bits;
  sort::count_digits(scratch.keys, group.ids, has_padding, digits, scratch.counters);
  E* result = memory.template take<E>(group.ids);
  E* to = digits.passes % 2 == 1 ? result : scratch.entries;  // the last pass ends in result
  E* from = digits.passes % 2 == 1 ? scratch.entries : result;
  uint32_t* next = scratch.counters;
  if (has_padding) {
    sort::scatter_shares<true>(group, scratch.keys, next, to);
  } else {
    sort::scatter_shares<false>(group, scratch.keys, next, to);
  }
  const int64_t count = next[size - 1];  // each counter has run to the end of its value
  for (unsigned pass = 1; pass < digits.passes; ++pass) {
    std::swap(from, to);
    next += size;
    sort::scatter_again(from, count, group.sample_bits + pass * digits.bits, size - 1, next, to);
  }
  auto* bounds = memory.template take<uint32_t>(sparsecores + 1);
  const unsigned below = (digits.passes - 1) * digits.bits;
  const unsigned asked_shift = group.row_bits + group.sample_bits;
  bounds[0] = 0;
  for (int64_t asked = 1; asked < sparsecores; ++asked) {
    if (group.row_bits >= below) {
      bounds[asked] = next[(static_cast<uint64_t>(asked) << (group.row_bits - below)) - 1];
    } else {
      const E* end = std::partition_point(result + bounds[asked - 1], result + count, [&](E entry) {
        return static_cast<int64_t>(entry.place >> asked_shift) < asked;
      });
      bounds[asked] = static_cast<uint32_t>(end - result);
    }
  }
  bounds[sparsecores] = static_cast<uint32_t>(count);
  return {result, bounds, &group};
}

}  // namespace emberay
