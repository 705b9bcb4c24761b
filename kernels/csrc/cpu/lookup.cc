#include "kernels/csrc/cpu/lookup.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "kernels/csrc/cpu/groups.h"
#include "kernels/csrc/cpu/row_math.h"

namespace emberay::cpu {
namespace {

constexpr int64_t kLeastFloats = 1 << 14;  // output not worth waking a thread for
constexpr int64_t kBlocksPerThread = 4;
constexpr int64_t kFloatsInCache = 1 << 17;

// With this many rows a sample, rows are taken in the order of the table, each once for all samples
// of a block, though sums then go through memory; with fewer, sample by sample.
constexpr int64_t kManyRows = 4;

int64_t blocks_of(int64_t samples, int64_t total, int64_t width, int64_t most) {
  return std::clamp<int64_t>((total + samples) * width / kLeastFloats, 1, most);
}

template <typename Visit>
void sum_row_by_row(int64_t samples, int64_t most, const Rows& source, float* out,
                    Workers& workers, const Visit& visit) {
  const int64_t width = source.width;
  // The sums of a block stay in a core's second cache.
  const int64_t fitting = (samples * width + kFloatsInCache - 1) / kFloatsInCache;
  const int64_t blocks = std::max(blocks_of(samples, most, width, workers.threads()), fitting);
  workers.run(blocks, [&](int64_t block) {
    const int64_t first = samples * block / blocks, size = samples * (block + 1) / blocks - first;
    std::memset(out + first * width, 0, size * width * sizeof(float));
    // One more: what is not of this block is written too, and then written over.
    std::vector<Addend> addends(most + 1);
    int64_t count = 0;
    visit([&](int64_t sample, int32_t row, float gain) {
      addends[count] = {row, static_cast<int32_t>(sample), gain};
      count += static_cast<uint64_t>(sample - first) < static_cast<uint64_t>(size);
    });
    if (count > 0) row_math().add(addends.data(), count, source.values, out, width);
  });
}

template <typename Visit>
void sum_sample_by_sample(int64_t samples, const Rows& source, float* out, Workers& workers,
                          const Visit& visit) {
  std::vector<int64_t> begins(samples + 1);
  visit([&](int64_t sample, int32_t, float) { ++begins[sample]; });
  int64_t total = 0;
  for (int64_t& begin : begins) total += std::exchange(begin, total);
  std::vector<Use> uses(total);
  visit([&](int64_t sample, int32_t row, float gain) { uses[begins[sample]++] = {row, gain}; });
  // Every begin has moved to the next sample's.
  for (int64_t sample = samples; sample > 0; --sample) begins[sample] = begins[sample - 1];
  begins[0] = 0;

  const Groups groups{nullptr, begins.data(), uses.data()};
  const auto sum = row_math().sum;
  const int64_t blocks =
      blocks_of(samples, total, source.width, workers.threads() * kBlocksPerThread);
  workers.run(blocks, [&](int64_t block) {
    sum(groups, samples * block / blocks, samples * (block + 1) / blocks, source.values, out,
        source.width);
  });
}

// Sums per sample. `visit` calls what it is given, (sample, row of the source, gain), for all uses
// in their one order, which is that of every sum; it may be called again. There are `most` or fewer.
template <typename Visit>
void sum_by_sample(int64_t samples, int64_t most, const Rows& source, float* out, Workers& workers,
                   const Visit& visit) {
  if (most >= kManyRows * samples) {
    sum_row_by_row(samples, most, source, out, workers, visit);
  } else {
    sum_sample_by_sample(samples, source, out, workers, visit);
  }
}

}  // namespace

void look_up(const Layout& layout, const Buffers& buffers, const Rows& table, float* out,
             Workers& workers) {
  const Segments segments = find_segments(layout, buffers);
  const auto core_rows = static_cast<uint32_t>(layout.rows_per_core);
  const auto core_samples = static_cast<uint32_t>(layout.samples_per_core);
  int64_t most = 0;
  for (const Segment& segment : segments.all) most += segment.end - segment.begin;
  sum_by_sample(layout.samples(), most, table, out, workers, [&](const auto& use) {
    for (int64_t asked = 0; asked < layout.sparsecores; ++asked) {
      const auto row_base = static_cast<int32_t>(asked * layout.rows_per_core);
      for (int64_t s = segments.first[asked]; s < segments.first[asked + 1]; ++s) {
        const Segment& segment = segments.all[s];
        const int64_t sample_base = segment.asking * layout.samples_per_core;
        for (int64_t i = segment.begin; i < segment.end; ++i) {
          const int32_t id = buffers.ids[i], sample = buffers.samples[i];
          const bool can_be = static_cast<uint32_t>(id) < core_rows &&
                              static_cast<uint32_t>(sample) < core_samples;
          if (can_be) use(sample_base + sample, row_base + id, buffers.gains[i]);
        }
      }
    }
  });
}

void combine_answers(const Layout& layout, const Buffers& buffers, const Rows& answers, float* out,
                     Workers& workers) {
  const std::vector<Part> parts = group_entries(layout, buffers, workers);
  const std::vector<int64_t> places = places_of_parts(layout, parts);
  const int64_t capacity = answers.count / layout.devices();
  int64_t most = 0;
  for (const Part& part : parts) most += part.begins.back();
  sum_by_sample(layout.samples(), most, answers, out, workers, [&](const auto& use) {
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
  });
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
