#include "kernels/csrc/cpu/entries.h"

#include <algorithm>

namespace emberay::cpu {
namespace {

constexpr int64_t kAlignment = 8;
constexpr int64_t kMinPointers = 8;

int64_t align(int64_t position) {
  return (position + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

Segments find_segments(const Layout& layout, const Buffers& buffers) {
  const int64_t cores = layout.sparsecores, per_core = std::max(cores, kMinPointers);
  const int64_t blocks = buffers.pointer_count / per_core;
  const int64_t most = blocks / layout.per_device;
  const int64_t minibatches =
      layout.minibatches ? std::clamp<int64_t>(buffers.minibatches, 0, most) : 1;
  const int64_t own = layout.minibatches ? buffers.size : buffers.size / layout.per_device;

  Segments found;
  const int64_t each = layout.per_device * minibatches;
  found.all.resize(cores * each);
  found.first.resize(cores + 1);
  for (int64_t asked = 0; asked <= cores; ++asked) found.first[asked] = asked * each;

  int64_t before = 0;
  for (int64_t block = 0; block < std::min(each, blocks); ++block) {
    const int64_t asking = block / minibatches;
    // With minibatches, a device's partitions are one chain; without, every SparseCore has its own.
    const int64_t base = layout.minibatches ? 0 : asking * own;
    if (!layout.minibatches) before = 0;
    const int32_t* pointers = buffers.pointers + block * per_core;
    for (int64_t asked = 0; asked < cores; ++asked) {
      const int64_t begin = std::clamp<int64_t>(align(before), 0, own);
      const int64_t end = std::clamp<int64_t>(pointers[asked], begin, own);
      found.all[asked * each + block] = {base + begin, base + end, asking};
      before = pointers[asked];
    }
    before = pointers[per_core - 1];
  }
  return found;
}

}  // namespace emberay::cpu
