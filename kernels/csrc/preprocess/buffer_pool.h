// Memory of the arrays that are returned: it comes back when Python drops the last of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

namespace emberay {

// A piece of memory, at a multiple of 64 bytes.
struct Block {
  std::byte* memory;
  size_t capacity;
};

class BufferPool {
 public:
  struct Counters {
    int64_t allocated = 0;  // blocks ever asked of the system
    int64_t reused = 0;     // blocks handed out a second time or later
    size_t bytes_in_use = 0;
    size_t bytes_free = 0;
  };

  static BufferPool& get();

  // A block of at least so many bytes, not initialised.
  Block take(size_t bytes);

  // Gives a block back. What is free never exceeds what was in use at once, plus a little.
  void give(Block block) noexcept;

  Counters counters();

 private:
  std::mutex mutex_;
  std::vector<Block> free_;  // oldest first; has room for the blocks in use: `give` cannot allocate
  int64_t blocks_in_use_ = 0;
  Counters counters_;
  size_t most_in_use_ = 0;
};

}  // namespace emberay
