#include "kernels/csrc/preprocess/keys.h"

#include <bit>
#include <cstring>

namespace emberay {
namespace {

#define EMBERAY_INLINE inline __attribute__((always_inline))

template <class Id>
EMBERAY_INLINE bool narrow_keys(const Id* ids, int64_t count, const KeyRule& rule, uint32_t* keys) {
  // A power of two of SparseCores: shifts and masks of 32 bits, which compilers vectorise.
  const auto vocabulary = static_cast<uint32_t>(rule.vocabulary);
  const auto shift = static_cast<uint32_t>(rule.shift);
  const auto mask = static_cast<uint32_t>(rule.sparsecores - 1);
  const auto add = static_cast<uint32_t>(rule.row_add);
  const unsigned log2 = std::countr_zero(rule.sparsecores);
  const unsigned row_bits = rule.row_bits;
  uint32_t bad = 0;
  for (int64_t i = 0; i < count; ++i) {
    const auto id = static_cast<uint32_t>(ids[i]);
    if constexpr (sizeof(Id) == 8) {
      bad |= static_cast<uint32_t>(static_cast<uint64_t>(ids[i]) >> 32);
    }
    bad |= static_cast<uint32_t>(id >= vocabulary);
    keys[i] = (((id + shift) & mask) << row_bits) | ((id >> log2) + add);
  }
  return bad == 0;
}

template <class Id, class Key>
EMBERAY_INLINE bool any_keys(const Id* ids, int64_t count, const KeyRule& rule, Key* keys) {
  bool good = true;
  for (int64_t i = 0; i < count; ++i) {
    const auto id = static_cast<uint64_t>(static_cast<int64_t>(ids[i]));
    good &= id < rule.vocabulary;
    const uint64_t row = id / rule.sparsecores;
    uint64_t asked = id - row * rule.sparsecores + rule.shift;
    asked -= asked >= rule.sparsecores ? rule.sparsecores : 0;
    keys[i] = static_cast<Key>((asked << rule.row_bits) | (row + rule.row_add));
  }
  return good;
}

EMBERAY_INLINE bool finite(const float* values, int64_t count) {
  uint32_t bad = 0;
  for (int64_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, values + i, sizeof bits);
    bad |= static_cast<uint32_t>((bits & 0x7fffffffu) >= 0x7f800000u);
  }
  return bad == 0;
}

#define EMBERAY_LEVEL(name, attribute)                                                          \
  attribute bool name##_keys32(const int32_t* ids, int64_t n, const KeyRule& r, uint32_t* k) { \
    return narrow_keys(ids, n, r, k);                                                           \
  }                                                                                             \
  attribute bool name##_keys64(const int64_t* ids, int64_t n, const KeyRule& r, uint32_t* k) { \
    return narrow_keys(ids, n, r, k);                                                           \
  }                                                                                             \
  attribute bool name##_finite(const float* values, int64_t n) { return finite(values, n); }

EMBERAY_LEVEL(baseline, )
#if defined(__x86_64__)
EMBERAY_LEVEL(avx2, __attribute__((target("avx2"))))
EMBERAY_LEVEL(avx512, __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))))
#endif

struct Level {
  const char* name;
  bool (*keys32)(const int32_t*, int64_t, const KeyRule&, uint32_t*);
  bool (*keys64)(const int64_t*, int64_t, const KeyRule&, uint32_t*);
  bool (*finite)(const float*, int64_t);
};

Level choose() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return {"avx512", avx512_keys32, avx512_keys64, avx512_finite};
  }
  if (__builtin_cpu_supports("avx2")) {
    return {"avx2", avx2_keys32, avx2_keys64, avx2_finite};
  }
#endif
  return {"baseline", baseline_keys32, baseline_keys64, baseline_finite};
}

const Level kLevel = choose();

}  // namespace

bool write_keys(const int32_t* ids, int64_t count, const KeyRule& rule, uint32_t* keys) {
  if (std::has_single_bit(rule.sparsecores)) return kLevel.keys32(ids, count, rule, keys);
  return any_keys(ids, count, rule, keys);
}
bool write_keys(const int64_t* ids, int64_t count, const KeyRule& rule, uint32_t* keys) {
  if (std::has_single_bit(rule.sparsecores)) return kLevel.keys64(ids, count, rule, keys);
  return any_keys(ids, count, rule, keys);
}
bool write_keys(const int32_t* ids, int64_t count, const KeyRule& rule, uint64_t* keys) {
  return any_keys(ids, count, rule, keys);
}
bool write_keys(const int64_t* ids, int64_t count, const KeyRule& rule, uint64_t* keys) {
  return any_keys(ids, count, rule, keys);
}

bool all_finite(const float* values, int64_t count) { return kLevel.finite(values, count); }

const char* vector_level() { return kLevel.name; }

}  // namespace emberay
