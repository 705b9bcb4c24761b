#include "kernels/csrc/cpu/stretches.h"

#include <algorithm>

namespace emberay::cpu {

Pieces cut_entries(const Layout& layout, const Segments& segments, int64_t most, int64_t least) {
  Pieces pieces{{}, {0}};
  for (const Segment& segment : segments.all) pieces.entries += segment.end - segment.begin;
  const int64_t size = std::max(least, (pieces.entries + most - 1) / most);
  int64_t room = size;
  for (int64_t asked = 0; asked < layout.sparsecores; ++asked) {
    const auto row_base = static_cast<int32_t>(asked * layout.rows_per_core);
    for (int64_t s = segments.first[asked]; s < segments.first[asked + 1]; ++s) {
      const Segment& segment = segments.all[s];
      for (int64_t begin = segment.begin; begin < segment.end;) {
        if (room == 0) {
          pieces.firsts.push_back(pieces.stretches.size());
          room = size;
        }
        const int64_t end = std::min(segment.end, begin + room);
        pieces.stretches.push_back(
            {begin, end, row_base, segment.asking * layout.samples_per_core});
        room -= end - begin;
        begin = end;
      }
    }
  }
  pieces.firsts.push_back(pieces.stretches.size());
  return pieces;
}

}  // namespace emberay::cpu
