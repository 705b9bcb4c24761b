#include "kernels/csrc/cpu/huge_pages.h"

#if defined(__linux__)
#include <sys/mman.h>

#include <cstdlib>
#include <fstream>
#include <map>
#include <mutex>
#include <string>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25  // Linux 6.1
#endif

namespace emberay::cpu {
namespace {

constexpr uintptr_t kHugePage = uintptr_t{1} << 21;
constexpr uintptr_t kLeastBytes = uintptr_t{1} << 25;  // smaller ones mostly stay in caches
// A program that puts its tables somewhere else at every step gains nothing, and pays only so
// often.
constexpr size_t kMostArrays = 1024;

bool allowed() {
  const char* wish = std::getenv("EMBERAY_HUGE_PAGES");
  if (wish != nullptr && std::string(wish) == "0") return false;
  std::ifstream setting("/sys/kernel/mm/transparent_hugepage/enabled");
  std::string words;
  return std::getline(setting, words) && words.find("[never]") == std::string::npos;
}

// Whether the array is seen for the first time.
bool is_new(uintptr_t begin, uintptr_t bytes) {
  static std::mutex mutex;
  static std::map<uintptr_t, uintptr_t> seen;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = seen.find(begin);
  if (found != seen.end() && found->second >= bytes) return false;
  if (found == seen.end() && seen.size() >= kMostArrays) return false;
  seen[begin] = bytes;
  return true;
}

}  // namespace

void use_huge_pages(const float* values, int64_t count) {
  static const bool is_allowed = allowed();
  const auto begin = reinterpret_cast<uintptr_t>(values);
  const auto bytes = static_cast<uintptr_t>(count) * sizeof(float);
  if (!is_allowed || bytes < kLeastBytes || !is_new(begin, bytes)) return;
  const uintptr_t first = (begin + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t last = (begin + bytes) / kHugePage * kHugePage;
  madvise(reinterpret_cast<void*>(first), last - first, MADV_COLLAPSE);
}

}  // namespace emberay::cpu
#else
namespace emberay::cpu {
void use_huge_pages(const float*, int64_t) {}
}  // namespace emberay::cpu
#endif
