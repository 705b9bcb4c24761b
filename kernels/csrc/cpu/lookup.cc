#include "kernels/csrc/cpu/lookup.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <utility>
#include <vector>

#include "kernels/csrc/cpu/groups.h"
#include "kernels/csrc/cpu/row_math.h"

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

bool all_are_one(const Place* counts, int64_t samples) {
  Place others = 0;  // without a branch, so that it is vectorised
  for (int64_t sample = 0; sample < samples; ++sample) others |= counts[sample] ^ 1;
  return others == 0;
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
  // If every sample has one use, which is common, a place can be told from the sample alone.
  const bool may_be_single = pieces == 1 && most == samples;
  bool single = false;
  const auto count = [&](int64_t piece) {
    Place* const counts = places.get() + piece * samples;
    std::fill_n(counts, samples, Place{0});
    if (may_be_single) {
      visit(piece, [counts, sorted = uses.get()](int64_t sample, int32_t row, float gain) {
        ++counts[sample];
        sorted[sample] = {row, gain};
      });
    } else {
      visit(piece, [counts](int64_t sample, int32_t, float) { ++counts[sample]; });
    }
  };
  const auto find_places = [&](int64_t) {
    if (may_be_single && all_are_one(places.get(), samples)) {
      std::iota(begins.get(), begins.get() + samples + 1, 0);
      single = true;
      return;
    }
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
    if (single) return;
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

// About as many entries in every piece, a piece for each thread if that is worth it.
Pieces cut_entries(const Layout& layout, const Segments& segments, int64_t threads) {
  Pieces pieces{{}, {0}};
  for (const Segment& segment : segments.all) pieces.entries += segment.end - segment.begin;
  const int64_t least = std::max<int64_t>(kLeastEntries, layout.samples());
  const int64_t size = std::max(least, (pieces.entries + threads - 1) / threads);
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

}  // namespace

void look_up(const Layout& layout, const Buffers& buffers, const Rows& table, float* out,
             Workers& workers) {
  const Pieces pieces = cut_entries(layout, find_segments(layout, buffers), workers.threads());
  const auto core_rows = static_cast<uint32_t>(layout.rows_per_core);
  const auto core_samples = static_cast<uint32_t>(layout.samples_per_core);
  const auto visit = [&](int64_t piece, const auto& use) {
    // Copies, which stay in registers whatever `use` writes.
    const Buffers given = buffers;
    const uint32_t rows = core_rows, samples = core_samples;
    for (size_t s = pieces.firsts[piece]; s < pieces.firsts[piece + 1]; ++s) {
      const Stretch stretch = pieces.stretches[s];
      for (int64_t i = stretch.begin; i < stretch.end; ++i) {
        const int32_t id = given.ids[i], sample = given.samples[i];
        const bool can_be =
            static_cast<uint32_t>(id) < rows && static_cast<uint32_t>(sample) < samples;
        if (can_be) use(stretch.sample_base + sample, stretch.row_base + id, given.gains[i]);
      }
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
