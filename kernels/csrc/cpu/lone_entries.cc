#include "kernels/csrc/cpu/lone_entries.h"

#include <algorithm>
#include <memory>

#include "kernels/csrc/cpu/row_math.h"
#include "kernels/csrc/cpu/stretches.h"

namespace emberay::cpu {
namespace {

constexpr int64_t kLeastFloats = 1 << 16;   // output not worth a piece of its own
constexpr int64_t kPiecesPerThread = 4;     // so that one that is woken late has less to do
constexpr int64_t kLeastEntries = 1 << 15;  // entries not worth waking a thread to mark them
constexpr int64_t kMostMarkers = 4;         // marks of each take as many bytes as there are samples

}  // namespace

bool look_up_lone(const Layout& layout, const Buffers& buffers, const Segments& segments,
                  const Rows& table, float* out, Workers& workers) {
  const int64_t samples = layout.samples();
  const Pieces marked = cut_entries(
      layout, segments, std::min(workers.threads(), kMostMarkers), kLeastEntries);
  if (marked.entries != samples) return false;
  const int64_t least = std::max<int64_t>(1, kLeastFloats / std::max<int64_t>(1, table.width));
  const Pieces scaled = cut_entries(layout, segments, workers.threads() * kPiecesPerThread, least);

  // As many entries as samples: if no sample is left out, each has one.
  const auto has_entry = std::make_unique<uint8_t[]>(marked.size() * samples);
  bool lone = false;
  const auto mark = [&](int64_t piece) {
    uint8_t* const marks = has_entry.get() + piece * samples;
    for (size_t s = marked.firsts[piece]; s < marked.firsts[piece + 1]; ++s) {
      for_each_entry(layout, buffers, marked.stretches[s],
                     [marks](int64_t sample, int32_t, float) { marks[sample] = 1; });
    }
  };
  const auto check = [&](int64_t) {
    uint8_t all = 1;  // without a branch, so that it is vectorised
    for (int64_t sample = 0; sample < samples; ++sample) {
      uint8_t one = 0;
      for (int64_t p = 0; p < marked.size(); ++p) one |= has_entry[p * samples + sample];
      all &= one;
    }
    lone = all == 1;
  };
  const auto scale = [&, scale_entries = row_math().scale](int64_t piece) {
    if (!lone) return;
    for (size_t s = scaled.firsts[piece]; s < scaled.firsts[piece + 1]; ++s) {
      const Stretch& stretch = scaled.stretches[s];
      scale_entries({buffers.ids + stretch.begin, buffers.samples + stretch.begin,
                     buffers.gains + stretch.begin, stretch.end - stretch.begin},
                    table.values + stretch.row_base * table.width,
                    out + stretch.sample_base * table.width, table.width);
    }
  };
  workers.run({{marked.size(), mark}, {1, check}, {scaled.size(), scale}});
  return lone;
}

}  // namespace emberay::cpu
