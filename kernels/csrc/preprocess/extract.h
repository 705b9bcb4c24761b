// One feature's share of one SparseCore: its ids as keys, its gains under the combiner, checked.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "kernels/csrc/preprocess/arena.h"
#include "kernels/csrc/preprocess/input.h"
#include "kernels/csrc/preprocess/keys.h"

namespace emberay {

// The samples [first, first + samples) of a feature.
struct Share {
  const Feature* feature = nullptr;
  int64_t number = 0;  // of the feature in the batch
  int64_t first = 0;
  int64_t samples = 0;
  int64_t begin = 0;              // position of its first id
  int64_t ids = 0;                // how many
  int64_t valency = 0;            // ids of every sample, if they are as many
  const int64_t* ends = nullptr;  // else [samples], relative to begin
  bool has_padding = false;
  const float* gains = nullptr;           // [ids], combiner applied; null: see gain_of_sample
  const float* gain_of_sample = nullptr;  // [samples], or null: 1

  // Position after the last id of a sample, relative to begin.
  int64_t end(int64_t sample) const {
    return ends != nullptr ? ends[sample] : (sample + 1) * valency;
  }

  // The row after the last one of its table.
  int64_t end_row(int64_t sparsecores) const {
    return feature->row_add + (feature->vocabulary - 1) / sparsecores + 1;
  }

  // The sample of this process that a position belongs to.
  int64_t sample_of(int64_t position) const {
    if (ends == nullptr) return first + position / valency;
    return first + (std::upper_bound(ends, ends + samples, position) - ends);
  }
};

namespace extract {

template <class Offset>
Trouble copy_offsets(const Offset* offsets, Share& share, int64_t* ends) {
  // Read once, so that another thread's writing cannot invalidate what was checked.
  const int64_t most = share.feature->num_ids;
  int64_t previous = offsets[share.first];
  share.begin = previous;
  bool alike = true;
  if (previous < 0 || previous > most) return {Code::kOffsets, share.number, share.first};
  for (int64_t sample = 0; sample < share.samples; ++sample) {
    const int64_t next = offsets[share.first + sample + 1];
    if (next < previous || next > most) {
      return {Code::kOffsets, share.number, share.first + sample};
    }
    ends[sample] = next - share.begin;
    alike &= next - previous == ends[0];
    previous = next;
  }
  share.ends = alike ? nullptr : ends;
  share.valency = alike && share.samples > 0 ? ends[0] : 0;
  share.ids = previous - share.begin;
  return {};
}

}  // namespace extract

// Finds a share's ids, without reading them.
inline Trouble locate(Share& share, Arena& arena) {
  const Feature& feature = *share.feature;
  if (feature.offsets == nullptr) {
    share.valency = feature.valency;
    share.begin = share.first * feature.valency;
    share.ids = share.samples * feature.valency;
    return {};
  }
  auto* ends = arena.take<int64_t>(share.samples);
  return feature.wide_offsets
             ? extract::copy_offsets(static_cast<const int64_t*>(feature.offsets), share, ends)
             : extract::copy_offsets(static_cast<const int32_t*>(feature.offsets), share, ends);
}

// Writes the keys of a share; padding gets the padding key.
template <class Id, class Key>
Trouble take_keys(Share& share, const KeyRule& rule, Key* keys) {
  const Id* ids = static_cast<const Id*>(share.feature->ids) + share.begin;
  if (write_keys(ids, share.ids, rule, keys)) return {};
  for (int64_t i = 0; i < share.ids; ++i) {
    const Id id = ids[i];
    if (id == kPaddingId) {
      share.has_padding = true;
      keys[i] = kPaddingKey<Key>;
    } else if (!write_keys(&id, 1, rule, keys + i)) {
      return {Code::kIdRange, share.number, share.sample_of(i)};
    }
  }
  return {};
}

namespace extract {

// The sum of a sample's gains, or of their squares, from left to right in float32, each step
// rounded once: as jax-tpu-embedding adds them.
template <bool kSquares, bool kPadding, class Key>
float total(const float* gains, const Key* keys, int64_t begin, int64_t end) {
  float total = 0;
  for (int64_t i = begin; i < end; ++i) {
    if (kPadding && keys[i] == kPaddingKey<Key>) continue;
    if constexpr (kSquares) {
      const double gain = gains[i];
      total = static_cast<float>(total + gain * gain);
    } else {
      total += gains[i];
    }
  }
  return total;
}

template <bool kSquares, bool kPadding, class Key>
Trouble divide(const Share& share, const float* gains, const Key* keys, float* scaled) {
  int64_t i = 0;
  for (int64_t sample = 0; sample < share.samples; ++sample) {
    const int64_t end = share.end(sample);
    float divisor = total<kSquares, kPadding>(gains, keys, i, end);
    if constexpr (kSquares) divisor = std::sqrt(divisor);
    if (divisor == 0 || !std::isfinite(divisor)) {
      for (int64_t k = i; k < end; ++k) {
        if (gains[k] != 0 && !(kPadding && keys[k] == kPaddingKey<Key>)) {
          return {Code::kCancelled, share.number, share.first + sample};
        }
      }
      divisor = 1;
    }
    for (; i < end; ++i) scaled[i] = gains[i] / divisor;
  }
  return {};
}

}  // namespace extract

// Checks given gains and applies the combiner; into `scaled`, room for all ids, unless it is sum.
template <class Key>
Trouble take_gains(Share& share, const Key* keys, float* scaled) {
  const Feature& feature = *share.feature;
  const float* gains = feature.gains + share.begin;
  if (!all_finite(gains, share.ids)) {
    for (int64_t i = 0; i < share.ids; ++i) {
      const bool padding = share.has_padding && keys[i] == kPaddingKey<Key>;
      if (!std::isfinite(gains[i]) && !padding) {
        return {Code::kGain, share.number, share.sample_of(i)};
      }
    }
  }
  share.gains = feature.combiner == Combiner::kSum ? gains : scaled;
  if (feature.combiner == Combiner::kSum) return {};
  if (feature.combiner == Combiner::kMean) {
    return share.has_padding ? extract::divide<false, true>(share, gains, keys, scaled)
                             : extract::divide<false, false>(share, gains, keys, scaled);
  }
  return share.has_padding ? extract::divide<true, true>(share, gains, keys, scaled)
                           : extract::divide<true, false>(share, gains, keys, scaled);
}

// What an id of each sample counts when no gains are given; null for 1.
template <class Key>
void count_gains(Share& share, const Key* keys, Arena& arena) {
  if (share.feature->combiner == Combiner::kSum) return;
  auto* result = arena.take<float>(share.samples);
  int64_t i = 0;
  for (int64_t sample = 0; sample < share.samples; ++sample) {
    const int64_t end = share.end(sample);
    int64_t count = end - i;
    if (share.has_padding) {
      for (; i < end; ++i) count -= keys[i] == kPaddingKey<Key>;
    }
    i = end;
    const auto number = static_cast<float>(std::max<int64_t>(count, 1));
    result[sample] =
        1.0f / (share.feature->combiner == Combiner::kSqrtN ? std::sqrt(number) : number);
  }
  share.gain_of_sample = result;
}

}  // namespace emberay
