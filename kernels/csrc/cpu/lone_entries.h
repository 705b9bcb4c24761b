// Lookups in which every sample has one entry, as in a feature with one id a sample.
#pragma once

#include "kernels/csrc/cpu/entries.h"
#include "kernels/csrc/cpu/lookup.h"
#include "kernels/csrc/cpu/parallel.h"

namespace emberay::cpu {

// Writes the sums, each of one row, if that is so; else returns false, and has written nothing.
//
// Entries are taken as they lie, rows ascending: rows that many samples have are read once, and
// nothing is sorted by sample.
bool look_up_lone(const Layout& layout, const Buffers& buffers, const Segments& segments,
                  const Rows& table, float* out, Workers& workers);

}  // namespace emberay::cpu
