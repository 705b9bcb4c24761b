#include "kernels/csrc/preprocess/buffer_pool.h"

#include <algorithm>
#include <cstdlib>
#include <new>

namespace emberay {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kSpare = size_t{16} << 20;
constexpr size_t kMost = size_t{1} << 46;  // refuses sizes that are a mistake

}  // namespace

BufferPool& BufferPool::get() {
  static auto* pool = new BufferPool;  // never destroyed: arrays may outlive the module
  return *pool;
}

Block BufferPool::take(size_t bytes) {
  if (bytes > kMost) throw std::bad_alloc();
  const size_t wanted = std::max((bytes + kPage - 1) / kPage * kPage, kPage);
  std::lock_guard<std::mutex> lock(mutex_);
  auto best = free_.end();
  for (auto block = free_.begin(); block != free_.end(); ++block) {
    const bool fits = block->capacity >= wanted && block->capacity <= 2 * wanted;
    if (fits && (best == free_.end() || block->capacity < best->capacity)) best = block;
  }
  Block block;
  if (best != free_.end()) {
    block = *best;
    free_.erase(best);
    counters_.bytes_free -= block.capacity;
    ++counters_.reused;
  } else {
    free_.reserve(free_.size() + static_cast<size_t>(blocks_in_use_) + 1);  // for `give`
    block = {static_cast<std::byte*>(std::aligned_alloc(kPage, wanted)), wanted};
    if (block.memory == nullptr) throw std::bad_alloc();
    ++counters_.allocated;
  }
  ++blocks_in_use_;
  counters_.bytes_in_use += block.capacity;
  most_in_use_ = std::max(most_in_use_, counters_.bytes_in_use);
  return block;
}

void BufferPool::give(Block block) noexcept {
  std::lock_guard<std::mutex> lock(mutex_);
  --blocks_in_use_;
  counters_.bytes_in_use -= block.capacity;
  if (free_.size() == free_.capacity()) {
    std::free(block.memory);
    return;
  }
  free_.push_back(block);
  counters_.bytes_free += block.capacity;
  while (counters_.bytes_free > most_in_use_ + kSpare) {
    counters_.bytes_free -= free_.front().capacity;
    std::free(free_.front().memory);
    free_.erase(free_.begin());
  }
}

BufferPool::Counters BufferPool::counters() {
  std::lock_guard<std::mutex> lock(mutex_);
  return counters_;
}

}  // namespace emberay
