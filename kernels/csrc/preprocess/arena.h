// Scratch memory of one thread: grows to what a batch needs, then is used again and again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <vector>

namespace emberay {

class Arena {
 public:
  Arena() = default;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena() {
    std::free(memory_);
    for (void* block : spilled_) std::free(block);
  }

  // Forgets everything taken; if it did not fit into one block, makes one that it fits into.
  void reset() {
    if (!spilled_.empty()) {
      for (void* block : spilled_) std::free(block);
      spilled_.clear();
      std::free(memory_);
      memory_ = nullptr;
      capacity_ = 0;
      const size_t wanted = wanted_ + wanted_ / 4;
      memory_ = static_cast<std::byte*>(allocate(wanted));
      capacity_ = wanted;
    }
    used_ = wanted_ = 0;
  }

  // What `count` values take.
  template <class T>
  static size_t bytes(int64_t count) {
    return (static_cast<size_t>(count) * sizeof(T) + 63) & ~size_t{63};
  }

  // Memory for `count` values, not initialised, at a multiple of 64 bytes.
  template <class T>
  T* take(int64_t count) {
    const size_t size = bytes<T>(count);
    wanted_ += size;
    if (capacity_ - used_ >= size) {
      void* result = memory_ + used_;
      used_ += size;
      return static_cast<T*>(result);
    }
    spilled_.reserve(spilled_.size() + 1);
    spilled_.push_back(allocate(size));
    return static_cast<T*>(spilled_.back());
  }

  size_t capacity() const { return capacity_; }

 private:
  static void* allocate(size_t bytes) {
    void* memory = std::aligned_alloc(64, (bytes + 127) & ~size_t{63});
    if (memory == nullptr) throw std::bad_alloc();
    return memory;
  }

  std::byte* memory_ = nullptr;
  size_t capacity_ = 0;
  size_t used_ = 0;
  size_t wanted_ = 0;
  std::vector<void*> spilled_;
};

}  // namespace emberay
