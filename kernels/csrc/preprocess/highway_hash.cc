// J. Alakuijala, B. Cox, J. Wassenberg, "Fast keyed hash/pseudo-random function using SIMD multiply
// and permute", 2016, https://arxiv.org/abs/1612.06257: of four bytes, several numbers at a time.
#include "kernels/csrc/preprocess/highway_hash.h"

#include <cstring>

namespace emberay {
namespace {

#define EMBERAY_INLINE inline __attribute__((always_inline))

// So many 64-bit numbers.
template <int kSize>
struct VectorOf {
  typedef uint64_t Type __attribute__((vector_size(8 * kSize)));
};

// The key that jax-tpu-embedding deals rows into minibatches with; it never changes.
constexpr uint64_t kKey[4] = {0x4451E30F87DB9609, 0xCA7358A1FD2737F8, 0x4B2C991FCEE4FDEA,
                              0x0B2658E18326F6BA};
// The paper's initial states: digits of pi.
constexpr uint64_t kFirst[4] = {0xDBE6D5D5FE4CCE2F, 0xA4093822299F31D0, 0x13198A2E03707344,
                                0x243F6A8885A308D3};
constexpr uint64_t kSecond[4] = {0x3BD39E10CB0EF593, 0xC0ACF169B5F18A8C, 0xBE5466CF34E90C6C,
                                 0x452821E638D01377};
constexpr uint64_t kBytes = 4;
constexpr int kRoundsAtEnd = 4;
constexpr uint64_t kLow = 0xFFFFFFFF;

constexpr uint64_t halves_swapped(uint64_t lane) { return lane >> 32 | lane << 32; }

constexpr uint64_t halves_rotated(uint64_t lane, unsigned by) {
  const auto rotated = [by](uint64_t half) { return (half << by | half >> (32 - by)) & kLow; };
  return rotated(lane >> 32) << 32 | rotated(lane & kLow);
}

constexpr uint64_t byte(int number) { return uint64_t{0xFF} << (8 * number); }

// Adds the paper's "zipper merge" of two lanes. Their 16 bytes, lowest first, become those numbered
// 3 12 2 5 14 1 15 0 and 11 4 10 13 9 6 8 7.
template <class Vector>
EMBERAY_INLINE void add_zipped(const Vector& even, const Vector& odd, Vector& to_even,
                               Vector& to_odd) {
  to_even += (((even & byte(3)) | (odd & byte(4))) >> 24) |
             (((even & byte(5)) | (odd & byte(6))) >> 16) | (even & byte(2)) |
             ((even & byte(1)) << 32) | ((odd & byte(7)) >> 8) | (even << 56);
  to_odd += (((odd & byte(3)) | (even & byte(4))) >> 24) | (odd & byte(2)) |
            ((odd & byte(5)) >> 16) | ((odd & byte(1)) << 24) | ((even & byte(6)) >> 8) |
            ((odd & byte(0)) << 48) | (even & byte(7));
}

// Four lanes of four registers, for every number.
template <class Vector>
struct State {
  Vector v0[4], v1[4], mul0[4], mul1[4];

  EMBERAY_INLINE State() {
    for (int lane = 0; lane < 4; ++lane) {
      // A packet that is not full mixes its length in, before its bytes.
      v0[lane] = Vector{} + ((kFirst[lane] ^ kKey[lane]) + (kBytes << 32) + kBytes);
      v1[lane] = Vector{} + halves_rotated(kSecond[lane] ^ halves_swapped(kKey[lane]), kBytes);
      mul0[lane] = Vector{} + kFirst[lane];
      mul1[lane] = Vector{} + kSecond[lane];
    }
  }

  EMBERAY_INLINE void update(const Vector (&packet)[4]) {
    for (int lane = 0; lane < 4; ++lane) {
      v1[lane] += mul0[lane] + packet[lane];
      mul0[lane] ^= (v1[lane] & kLow) * (v0[lane] >> 32);
      v0[lane] += mul1[lane];
      mul1[lane] ^= (v0[lane] & kLow) * (v1[lane] >> 32);
    }
    for (int i = 0; i < 4; i += 2) add_zipped(v1[i], v1[i + 1], v0[i], v0[i + 1]);
    for (int i = 0; i < 4; i += 2) add_zipped(v0[i], v0[i + 1], v1[i], v1[i + 1]);
  }
};

template <int kSize>
EMBERAY_INLINE void hash_block(const uint32_t* columns, uint8_t* buckets) {
  using Vector = typename VectorOf<kSize>::Type;
  State<Vector> state;
  uint64_t numbers[kSize];
  for (int i = 0; i < kSize; ++i) numbers[i] = columns[i];
  Vector packet[4] = {Vector{}, Vector{}, Vector{}, Vector{}};
  std::memcpy(&packet[0], numbers, sizeof numbers);
  state.update(packet);
  for (int round = 0; round < kRoundsAtEnd; ++round) {
    for (int lane = 0; lane < 4; ++lane) {
      const Vector& from = state.v0[(lane + 2) % 4];
      packet[lane] = (from >> 32) | (from << 32);
    }
    state.update(packet);
  }
  const Vector hash = state.v0[0] + state.v1[0] + state.mul0[0] + state.mul1[0];
  for (int i = 0; i < kSize; ++i) buckets[i] = static_cast<uint8_t>(hash[i] % kBuckets);
}

template <int kSize>
EMBERAY_INLINE void hash_all(const uint32_t* columns, int64_t count, uint8_t* buckets) {
  int64_t i = 0;
  for (; i + kSize <= count; i += kSize) hash_block<kSize>(columns + i, buckets + i);
  if (i == count) return;
  uint32_t rest[kSize] = {};
  uint8_t result[kSize];
  std::memcpy(rest, columns + i, sizeof(uint32_t) * (count - i));
  hash_block<kSize>(rest, result);
  std::memcpy(buckets + i, result, count - i);
}

void baseline_hash(const uint32_t* columns, int64_t count, uint8_t* buckets) {
  hash_all<2>(columns, count, buckets);
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) void avx2_hash(const uint32_t* columns, int64_t count,
                                               uint8_t* buckets) {
  hash_all<4>(columns, count, buckets);
}

__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))) void avx512_hash(
    const uint32_t* columns, int64_t count, uint8_t* buckets) {
  hash_all<8>(columns, count, buckets);
}
#endif

using Hash = void (*)(const uint32_t*, int64_t, uint8_t*);

Hash choose() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return avx512_hash;
  }
  if (__builtin_cpu_supports("avx2")) return avx2_hash;
#endif
  return baseline_hash;
}

const Hash kHash = choose();

}  // namespace

void buckets_of(const uint32_t* columns, int64_t count, uint8_t* buckets) {
  kHash(columns, count, buckets);
}

}  // namespace emberay
