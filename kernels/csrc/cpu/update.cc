#include "kernels/csrc/cpu/update.h"

#include <algorithm>
#include <cstring>

namespace emberay::cpu {

void update_rows(const std::vector<Part>& parts, const float* gradients, const Variables& variables,
                 Optimizer optimizer, Workers& workers) {
  const std::vector<Chunk> chunks = cut(parts, workers.threads());
  const auto update = row_math().update[static_cast<int64_t>(optimizer)];
  workers.run(static_cast<int64_t>(chunks.size()), [&](int64_t c) {
    const Chunk& chunk = chunks[c];
    std::vector<float> scratch(scratch_size(variables.width));
    update(groups_of(parts[chunk.part]), chunk.begin, chunk.end, gradients, variables,
           scratch.data());
  });
}

void write_sums(const std::vector<Part>& parts, const std::vector<int64_t>& places,
                const std::vector<int64_t>& ends, const float* gradients, int64_t width,
                int64_t count, int32_t* rows, float* sums, Workers& workers) {
  std::fill_n(rows, count, kNoRow);
  // What lies between the parts; they themselves are written once.
  int64_t filled = 0;
  const auto clear_to = [&](int64_t place) {
    if (place > filled) std::memset(sums + filled * width, 0, (place - filled) * width * 4);
  };
  for (size_t p = 0; p < parts.size(); ++p) {
    const int64_t fitting = std::clamp<int64_t>(ends[p] - places[p], 0, parts[p].size());
    if (fitting == 0) continue;
    clear_to(places[p]);
    std::copy_n(parts[p].rows.data(), fitting, rows + places[p]);
    filled = places[p] + fitting;
  }
  clear_to(count);

  const std::vector<Chunk> chunks = cut(parts, workers.threads());
  const auto sum = row_math().sum;
  workers.run(static_cast<int64_t>(chunks.size()), [&](int64_t c) {
    const Chunk& chunk = chunks[c];
    const int64_t place = places[chunk.part];
    const int64_t end = std::min(chunk.end, ends[chunk.part] - place);
    if (end <= chunk.begin) return;  // all of it lies beyond the part's places
    sum(groups_of(parts[chunk.part]), chunk.begin, end, gradients, sums + place * width, width);
  });
}

}  // namespace emberay::cpu
