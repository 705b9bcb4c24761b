#include "kernels/csrc/cpu/groups.h"

#include <algorithm>
#include <array>
#include <utility>

namespace emberay::cpu {
namespace {

constexpr int64_t kLeastUses = 1024;     // work not worth waking a thread for
constexpr int64_t kChunksPerThread = 4;  // so that one that starts late still finds some

struct Keyed {
  int32_t row;
  Use use;
};

// Stable, by row: 11 bits at a time.
void sort_by_row(std::vector<Keyed>& entries, int32_t most) {
  constexpr int kBits = 11;
  std::vector<Keyed> other(entries.size());
  for (int shift = 0; shift < 31 && (most >> shift) > 0; shift += kBits) {
    std::array<int64_t, 1 << kBits> place{};
    for (const Keyed& entry : entries) ++place[(entry.row >> shift) & ((1 << kBits) - 1)];
    int64_t total = 0;
    for (int64_t& count : place) total += std::exchange(count, total);
    for (const Keyed& entry : entries) {
      other[place[(entry.row >> shift) & ((1 << kBits) - 1)]++] = entry;
    }
    entries.swap(other);
  }
}

Part group(std::vector<Keyed>& entries, bool ascending, int32_t most) {
  if (!ascending) sort_by_row(entries, most);
  Part part;
  const size_t count = entries.size();
  part.rows.resize(count);
  part.begins.resize(count + 1);
  part.uses.resize(count);
  int64_t groups = 0;
  int32_t last = -1;
  for (size_t i = 0; i < count; ++i) {
    const Keyed& entry = entries[i];
    part.uses[i] = entry.use;
    // Without a branch: written again and again until the next row.
    groups += entry.row != last;
    last = entry.row;
    part.rows[groups - 1] = entry.row;
    part.begins[groups] = static_cast<int64_t>(i) + 1;
  }
  part.rows.resize(groups);
  part.begins.resize(groups + 1);
  return part;
}

Part group_core(const Layout& layout, const Buffers& buffers, const Segments& segments,
                int64_t asked) {
  const auto first = segments.all.begin() + segments.first[asked];
  const auto last = segments.all.begin() + segments.first[asked + 1];
  int64_t most = 0;
  for (auto segment = first; segment != last; ++segment) most += segment->end - segment->begin;

  std::vector<Keyed> entries(most);
  const auto core_rows = static_cast<uint32_t>(layout.rows_per_core);
  const auto core_samples = static_cast<uint32_t>(layout.samples_per_core);
  const auto row_base = static_cast<int32_t>(asked % layout.per_device * layout.rows_per_core);
  int64_t count = 0;
  bool ascending = true;
  int32_t before = 0;
  for (auto segment = first; segment != last; ++segment) {
    const auto sample_base = static_cast<int32_t>(segment->asking * layout.samples_per_core);
    for (int64_t i = segment->begin; i < segment->end; ++i) {
      const int32_t id = buffers.ids[i], sample = buffers.samples[i];
      const bool can_be =
          static_cast<uint32_t>(id) < core_rows && static_cast<uint32_t>(sample) < core_samples;
      if (!can_be) continue;
      const int32_t row = row_base + id;
      entries[count++] = {row, {sample_base + sample, buffers.gains[i]}};
      ascending &= row >= before;
      before = row;
    }
  }
  entries.resize(count);
  return group(entries, ascending, row_base + static_cast<int32_t>(core_rows));
}

}  // namespace

std::vector<Part> group_entries(const Layout& layout, const Buffers& buffers, Workers& workers) {
  const Segments segments = find_segments(layout, buffers);
  std::vector<Part> parts(layout.sparsecores);
  workers.run(layout.sparsecores, [&](int64_t asked) {
    parts[asked] = group_core(layout, buffers, segments, asked);
  });
  return parts;
}

std::vector<Part> group_rows(const int32_t* rows, int64_t count, int64_t limit) {
  std::vector<Keyed> entries;
  entries.reserve(count);
  bool ascending = true;
  int32_t before = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (rows[i] < 0 || rows[i] >= limit) continue;
    entries.push_back({rows[i], {static_cast<int32_t>(i), 1.0f}});
    ascending &= rows[i] >= before;
    before = rows[i];
  }
  std::vector<Part> parts(1);
  parts[0] = group(entries, ascending, static_cast<int32_t>(limit));
  return parts;
}

std::vector<Chunk> cut(const std::vector<Part>& parts, int64_t threads) {
  int64_t total = 0;
  for (const Part& part : parts) total += part.begins.back();
  const int64_t pieces = threads > 1 ? threads * kChunksPerThread : 1;
  const int64_t size = std::max(kLeastUses, (total + pieces - 1) / pieces);
  std::vector<Chunk> chunks;
  for (size_t p = 0; p < parts.size(); ++p) {
    const std::vector<int64_t>& begins = parts[p].begins;
    const int64_t groups = parts[p].size();
    for (int64_t begin = 0; begin < groups;) {
      const auto end = std::lower_bound(begins.begin() + begin + 1, begins.end() - 1,
                                        begins[begin] + size);
      const int64_t next = end - begins.begin();
      chunks.push_back({static_cast<int64_t>(p), begin, next});
      begin = next;
    }
  }
  return chunks;
}

std::vector<int64_t> places_of_parts(const Layout& layout, const std::vector<Part>& parts) {
  std::vector<int64_t> places(parts.size());
  for (size_t p = 1; p < parts.size(); ++p) {
    const bool same_device = p % layout.per_device != 0;
    places[p] = same_device ? places[p - 1] + parts[p - 1].size() : 0;
  }
  return places;
}

}  // namespace emberay::cpu
