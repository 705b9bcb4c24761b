#include "kernels/csrc/cpu/lone_entries.h"

#include <algorithm>
#include <memory>

#include "kernels/csrc/cpu/row_math.h"
#include "kernels/csrc/cpu/stretches.h"

namespace emberay::cpu {
namespace {

constexpr int64_t kLeastFloats = 1 << 16;  // output not worth waking a thread for

}  // namespace

bool look_up_lone(const Layout& layout, const Buffers& buffers, const Segments& segments,
                  const Rows& table, float* out, Workers& workers) {
  const int64_t samples = layout.samples();
  const int64_t least = std::max<int64_t>(1, kLeastFloats / std::max<int64_t>(1, table.width));
  const Pieces pieces = cut_entries(layout, segments, workers.threads(), least);
  if (pieces.entries != samples) return false;

  // As many entries as samples: if none is left out, each sample has one.
  const int64_t count = pieces.size();
  const auto has_entry = std::make_unique<uint8_t[]>(count * samples);
  bool lone = false;
  const auto mark = [&](int64_t piece) {
    uint8_t* const marks = has_entry.get() + piece * samples;
    for (size_t s = pieces.firsts[piece]; s < pieces.firsts[piece + 1]; ++s) {
      for_each_entry(layout, buffers, pieces.stretches[s],
                     [marks](int64_t sample, int32_t, float) { marks[sample] = 1; });
    }
  };
  const auto check = [&](int64_t) {
    uint8_t all = 1;  // without a branch, so that it is vectorised
    for (int64_t sample = 0; sample < samples; ++sample) {
      uint8_t one = 0;
      for (int64_t piece = 0; piece < count; ++piece) one |= has_entry[piece * samples + sample];
      all &= one;
    }
    lone = all == 1;
  };
  const auto scale = [&, scale_entries = row_math().scale](int64_t piece) {
    if (!lone) return;
    for (size_t s = pieces.firsts[piece]; s < pieces.firsts[piece + 1]; ++s) {
      const Stretch& stretch = pieces.stretches[s];
      scale_entries({buffers.ids + stretch.begin, buffers.samples + stretch.begin,
                     buffers.gains + stretch.begin, stretch.end - stretch.begin},
                    table.values + stretch.row_base * table.width,
                    out + stretch.sample_base * table.width, table.width);
    }
  };
  workers.run({{count, mark}, {1, check}, {count, scale}});
  return lone;
}

}  // namespace emberay::cpu
