// Entries by the row they name: what every sum of gradients is made from.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/csrc/cpu/entries.h"
#include "kernels/csrc/cpu/parallel.h"

namespace emberay::cpu {

// One row that goes into a sum, times gain: a sample's gradient, or a table's row.
struct Use {
  int32_t index;
  float gain;
};

// Rows in ascending order, each once, with their uses: those of group g are
// [begins[g], begins[g + 1]).
struct Part {
  std::vector<int32_t> rows;
  std::vector<int64_t> begins;
  std::vector<Use> uses;

  int64_t size() const { return static_cast<int64_t>(rows.size()); }
};

// Groups of one part: work for one thread.
struct Chunk {
  int64_t part, begin, end;
};

// One part per SparseCore asked. Rows are those of the device asked, so those of its SparseCores
// follow each other. Uses of a row come in the order of the SparseCores asking, then of the buffer,
// whatever the number of threads. Entries whose id or sample cannot be are left out.
std::vector<Part> group_entries(const Layout& layout, const Buffers& buffers, Workers& workers);

// One part of rows given one by one, use i being that of place i, with gain 1. Rows outside
// [0, limit) are left out.
std::vector<Part> group_rows(const int32_t* rows, int64_t count, int64_t limit);

// Cuts the parts into pieces with about the same number of uses, some for each thread.
std::vector<Chunk> cut(const std::vector<Part>& parts, int64_t threads);

// For every part, how many rows of the same device come before it.
std::vector<int64_t> places_of_parts(const Layout& layout, const std::vector<Part>& parts);

}  // namespace emberay::cpu
