// What preprocessing's buffers hold: partitions of entries, found by their row pointers.
//
// The layout is drawn in kernels/preprocessing/format.py. Nothing in the buffers is trusted:
// partitions are cut to the buffer, and who reads an entry checks its row and its sample.
#pragma once

#include <cstdint>
#include <vector>

namespace emberay::cpu {

// Row number of a place that is not used; reads as 0, is never written.
inline constexpr int32_t kNoRow = INT32_MAX;

// What is known of a stack when a program is compiled.
struct Layout {
  int64_t sparsecores;       // of the mesh, S
  int64_t per_device;        // SparseCores of a device
  int64_t samples_per_core;  // samples whose ids one SparseCore asks for
  int64_t rows_per_core;     // rows of the stack on a SparseCore
  bool minibatches;          // whether the buffers are laid out in minibatches

  int64_t devices() const { return sparsecores / per_device; }
  int64_t samples() const { return samples_per_core * per_device; }
};

// One stack's buffers on one device.
struct Buffers {
  const int32_t* pointers;
  int64_t pointer_count;
  const int32_t* ids;
  const int32_t* samples;
  const float* gains;
  int64_t size;         // entries
  int64_t minibatches;  // that the buffers hold
};

// A stretch of entries: what one SparseCore of this device asks of one SparseCore of the mesh.
struct Segment {
  int64_t begin, end;
  int64_t asking;  // SparseCore of this device
};

// All segments; those of the SparseCore asked a are [first[a], first[a + 1]), in the order of the
// SparseCores asking, then of the minibatches.
struct Segments {
  std::vector<Segment> all;
  std::vector<int64_t> first;
};

Segments find_segments(const Layout& layout, const Buffers& buffers);

}  // namespace emberay::cpu
