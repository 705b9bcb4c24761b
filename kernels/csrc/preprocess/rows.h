// Ragged input: sequences of rows that are arrays of their own, joined.
#pragma once

#include "kernels/csrc/preprocess/python_arrays.h"

#include <cstdint>

#include "kernels/csrc/preprocess/arena.h"
#include "kernels/csrc/preprocess/buffer_pool.h"

namespace emberay {

// The objects of a sequence, which stay alive and in place while the GIL is held.
class Objects {
 public:
  explicit Objects(nb::handle rows);
  // Whether this is a list, a tuple or an object array of one dimension.
  bool known() const { return known_; }
  int64_t size() const { return size_; }
  PyObject* operator[](int64_t i) const {
    return *reinterpret_cast<PyObject* const*>(first_ + i * stride_);
  }

 private:
  const char* first_ = nullptr;
  int64_t size_ = 0;
  int64_t stride_ = sizeof(PyObject*);
  bool known_ = true;
};

// The ids or gains of one feature: one-dimensional arrays of int32 or int64, or of float32 or
// float64. They are joined in a block of the pool: offsets, unless all rows are as long, and
// values.
class Rows {
 public:
  Rows(nb::handle rows, int64_t feature, bool are_gains);
  Rows(Rows&& other) noexcept : Rows(other) { other.block_ = {}; }
  Rows& operator=(Rows&&) = delete;
  ~Rows() {
    if (block_.memory != nullptr) BufferPool::get().give(block_);
  }

  // To be called, by any thread, while one holds the GIL: so nothing changes a row meanwhile.
  void join(Arena& arena);

  int64_t feature() const { return feature_; }  // its number in the batch
  bool gains() const { return gains_; }
  bool known() const { return objects_.known(); }
  int64_t size() const { return objects_.size(); }

  // Once joined. Whether some row, or the sequence, is something else: then there are no values.
  bool odd() const { return odd_; }
  bool wide() const { return wide_; }    // int64, else int32; gains are float32 always
  bool alike() const { return alike_; }  // all rows are as long, and not empty: no offsets
  int64_t total() const { return total_; }
  const int64_t* offsets() const {
    return alike_ ? nullptr : reinterpret_cast<const int64_t*>(block_.memory);
  }
  const void* values() const { return block_.memory + offset_bytes_; }
  bool same_lengths(const Rows& other) const;

 private:
  Rows(const Rows&) = default;
  bool join_alike();
  template <class From, class To>
  bool copy_alike(int64_t size, const PyArray_Descr* descriptor);
  void join_any(Arena& arena);

  Objects objects_;
  int64_t feature_;
  bool gains_;
  bool odd_ = false;
  bool wide_ = false;
  bool alike_ = false;
  int64_t total_ = 0;
  size_t offset_bytes_ = 0;
  Block block_{};
};

}  // namespace emberay
