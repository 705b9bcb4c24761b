#include "kernels/csrc/cpu/lookup.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "kernels/csrc/cpu/groups.h"
#include "kernels/csrc/cpu/lone_entries.h"
#include "kernels/csrc/cpu/row_math.h"
#include "kernels/csrc/cpu/stretches.h"

namespace emberay::cpu {
namespace {

constexpr int64_t kLeastFloats = 1 << 14;  // output not worth waking a thread for
constexpr int64_t kBlocksPerThread = 4;
constexpr int64_t kLeastEntries = 1 << 13;  // entries not worth waking a thread to sort them

// Place of an entry among those of a stack: half of the first cache holds one for each sample.
using Place = uint32_t;

int64_t blocks_of(int64_t samples, int64_t total, int64_t width, int64_t most) {
  return std::clamp<int64_t>((total + samples) * width / kLeastFloats, 1, most);
}

// Sums per sample of at most so many uses. `visit` is called twice for every piece and calls what
// it is given, (sample, row of the source, gain), for its uses. Their order, piece by piece, is
// that of every sum. They are sorted by sample first, so that a sum stays in registers and is
// written once.
template <typename Visit>
void sum_by_sample(int64_t samples, int64_t pieces, int64_t most, const Rows& source, float* out,
                   Workers& workers, const Visit& visit) {
  if (most > std::numeric_limits<Place>::max()) throw std::length_error("too many ids in a batch");
  const auto places = std::make_unique_for_overwrite<Place[]>(pieces * samples);
  const auto begins = std::make_unique_for_overwrite<int64_t[]>(samples + 1);
  const auto uses = std::make_unique_for_overwrite<Use[]>(most);
  const auto count = [&](int64_t piece) {
    Place* const counts = places.get() + piece * samples;
    std::fill_n(counts, samples, Place{0});
    visit(piece, [counts](int64_t sample, int32_t, float) { ++counts[sample]; });
  };
  const auto find_places = [&](int64_t) {
    Place total = 0;
    for (int64_t sample = 0; sample < samples; ++sample) {
      begins[sample] = total;
      for (int64_t piece = 0; piece < pieces; ++piece) {
        total += std::exchange(places[piece * samples + sample], total);
      }
    }
    begins[samples] = total;
  };
  const auto scatter = [&](int64_t piece) {
    Place* const next = places.get() + piece * samples;
    visit(piece, [next, sorted = uses.get()](int64_t sample, int32_t row, float gain) {
      sorted[next[sample]++] = {row, gain};
    });
  };
  const Groups groups{nullptr, begins.get(), uses.get()};
  const int64_t blocks =
      blocks_of(samples, most, source.width, workers.threads() * kBlocksPerThread);
  const auto sum = [&, sum_groups = row_math().sum](int64_t block) {
    sum_groups(groups, samples * block / blocks, samples * (block + 1) / blocks, source.values, out,
               source.width);
  };
  workers.run({{pieces, count}, {1, find_places}, {pieces, scatter}, {blocks, sum}});
}

}  // namespace

void look_up(const Layout& layout, const Buffers& buffers, const Rows& table, float* out,
             Workers& workers) {
  const Segments segments = find_segments(layout, buffers);
  if (look_up_lone(layout, buffers, segments, table, out, workers)) return;
  const int64_t least = std::max<int64_t>(kLeastEntries, layout.samples());
  const Pieces pieces = cut_entries(layout, segments, workers.threads(), least);
  const auto visit = [&](int64_t piece, const auto& use) {
    for (size_t s = pieces.firsts[piece]; s < pieces.firsts[piece + 1]; ++s) {
      for_each_entry(layout, buffers, pieces.stretches[s], use);
    }
  };
  sum_by_sample(layout.samples(), pieces.size(), pieces.entries, table, out, workers, visit);
}

void combine_answers(const Layout& layout, const Buffers& buffers, const Rows& answers, float* out,
                     Workers& workers) {
  const std::vector<Part> parts = group_entries(layout, buffers, workers);
  const std::vector<int64_t> places = places_of_parts(layout, parts);
  const int64_t capacity = answers.count / layout.devices();
  int64_t entries = 0;
  for (const Part& part : parts) entries += static_cast<int64_t>(part.uses.size());
  const auto visit = [&](int64_t, const auto& use) {
    for (size_t p = 0; p < parts.size(); ++p) {
      const Part& part = parts[p];
      const int64_t device = static_cast<int64_t>(p) / layout.per_device;
      const int64_t fitting = std::min(part.size(), capacity - places[p]);
      for (int64_t g = 0; g < fitting; ++g) {
        const auto slot = static_cast<int32_t>(device * capacity + places[p] + g);
        for (int64_t u = part.begins[g]; u < part.begins[g + 1]; ++u) {
          use(part.uses[u].index, slot, part.uses[u].gain);
        }
      }
    }
  };
  sum_by_sample(layout.samples(), 1, entries, answers, out, workers, visit);
}

void write_requests(const Layout& layout, const Buffers& buffers, int64_t capacity, int32_t* out,
                    Workers& workers) {
  const std::vector<Part> parts = group_entries(layout, buffers, workers);
  const std::vector<int64_t> places = places_of_parts(layout, parts);
  std::fill_n(out, layout.devices() * capacity, kNoRow);
  for (size_t p = 0; p < parts.size(); ++p) {
    const int64_t device = static_cast<int64_t>(p) / layout.per_device;
    const int64_t fitting = std::min(parts[p].size(), capacity - places[p]);
    if (fitting > 0) {
      std::copy_n(parts[p].rows.data(), fitting, out + device * capacity + places[p]);
    }
  }
}

void read_rows(const int32_t* rows, int64_t count, const Rows& table, float* out,
               Workers& workers) {
  const int64_t blocks =
      std::clamp<int64_t>(count * table.width / kLeastFloats, 1, workers.threads() * 4);
  workers.run(blocks, [&](int64_t block) {
    const size_t bytes = table.width * sizeof(float);
    for (int64_t i = count * block / blocks; i < count * (block + 1) / blocks; ++i) {
      if (rows[i] >= 0 && rows[i] < table.count) {
        std::memcpy(out + i * table.width, table.values + rows[i] * table.width, bytes);
      } else {
        std::memset(out + i * table.width, 0, bytes);
      }
    }
  });
}

}  // namespace emberay::cpu
