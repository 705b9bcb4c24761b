// A batch's entries cut into pieces for threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/csrc/cpu/entries.h"

namespace emberay::cpu {

// Some entries that follow each other, of one segment.
struct Stretch {
  int64_t begin, end;
  int32_t row_base;
  int64_t sample_base;
};

// Stretches in the order of the sums; those of piece p are [firsts[p], firsts[p + 1]).
struct Pieces {
  std::vector<Stretch> stretches;
  std::vector<size_t> firsts;
  int64_t entries = 0;

  int64_t size() const { return static_cast<int64_t>(firsts.size()) - 1; }
};

// About as many entries in every piece, but at least `least`, and no more pieces than `most`.
Pieces cut_entries(const Layout& layout, const Segments& segments, int64_t most, int64_t least);

// Calls use(sample, row, gain) for the entries of a stretch whose row and sample can be.
template <typename UseEntry>
void for_each_entry(const Layout& layout, const Buffers& buffers, const Stretch& stretch,
                    const UseEntry& use) {
  // Copies, which stay in registers whatever `use` writes.
  const Buffers given = buffers;
  const auto rows = static_cast<uint32_t>(layout.rows_per_core);
  const auto samples = static_cast<uint32_t>(layout.samples_per_core);
  for (int64_t i = stretch.begin; i < stretch.end; ++i) {
    const int32_t id = given.ids[i], sample = given.samples[i];
    const bool can_be = static_cast<uint32_t>(id) < rows && static_cast<uint32_t>(sample) < samples;
    if (can_be) use(stretch.sample_base + sample, stretch.row_base + id, given.gains[i]);
  }
}

}  // namespace emberay::cpu
