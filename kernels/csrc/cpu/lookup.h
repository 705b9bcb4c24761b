// Lookup: rows, multiplied by gains, are summed per sample.
#pragma once

#include <cstdint>

#include "kernels/csrc/cpu/entries.h"
#include "kernels/csrc/cpu/parallel.h"

namespace emberay::cpu {

// A matrix of floats: rows one after another.
struct Rows {
  const float* values;
  int64_t count;
  int64_t width;
};

// Activations [samples, width] from a table of which this device has all rows.
void look_up(const Layout& layout, const Buffers& buffers, const Rows& table, float* out,
             Workers& workers);

// Activations from the answers to `write_requests`, [devices, capacity, width].
void combine_answers(const Layout& layout, const Buffers& buffers, const Rows& answers, float* out,
                     Workers& workers);

// For every device, the different rows asked of it, ascending: [devices, capacity], kNoRow in
// unused places. Rows that do not fit are left out.
void write_requests(const Layout& layout, const Buffers& buffers, int64_t capacity, int32_t* out,
                    Workers& workers);

// The rows named; 0 for those outside of the table.
void read_rows(const int32_t* rows, int64_t count, const Rows& table, float* out, Workers& workers);

}  // namespace emberay::cpu
