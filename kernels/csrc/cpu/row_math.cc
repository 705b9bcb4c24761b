#include "kernels/csrc/cpu/row_math.h"

#include <atomic>

namespace emberay::cpu {
namespace baseline {
extern const RowMath kRowMath;
}
namespace avx2 {
extern const RowMath kRowMath;
}
namespace avx512 {
extern const RowMath kRowMath;
}

namespace {

struct Level {
  const char* name;
  const RowMath* math;
};

std::vector<Level> find_levels() {
  std::vector<Level> found;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw")) {
    found.push_back({"avx512", &avx512::kRowMath});
  }
  if (__builtin_cpu_supports("avx2")) found.push_back({"avx2", &avx2::kRowMath});
#endif
  found.push_back({"baseline", &baseline::kRowMath});
  return found;
}

const std::vector<Level>& known() {
  static const std::vector<Level> found = find_levels();
  return found;
}

std::atomic<const RowMath*> chosen{nullptr};

}  // namespace

const RowMath& row_math() {
  const RowMath* math = chosen.load(std::memory_order_relaxed);
  return math != nullptr ? *math : *known().front().math;
}

std::vector<std::string> levels() {
  std::vector<std::string> names;
  for (const Level& level : known()) names.push_back(level.name);
  return names;
}

bool use_level(const std::string& name) {
  for (const Level& level : known()) {
    if (name == level.name) {
      chosen.store(level.math);
      return true;
    }
  }
  return false;
}

}  // namespace emberay::cpu
