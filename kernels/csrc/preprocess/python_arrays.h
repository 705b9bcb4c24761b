// numpy arrays in C++: those given are checked, those returned lie in the buffer pool.
#pragma once

#include <Python.h>

#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#define PY_ARRAY_UNIQUE_SYMBOL emberay_preprocess_numpy
#ifndef EMBERAY_IMPORTS_NUMPY
#define NO_IMPORT_ARRAY
#endif
#include <nanobind/nanobind.h>
#include <numpy/arrayobject.h>

#include <cstdint>
#include <initializer_list>
#include <memory>

#include "kernels/csrc/preprocess/buffer_pool.h"

namespace emberay {

namespace nb = nanobind;

// A numpy array whose values can be read as C++ would lay them out.
struct Given {
  const void* data = nullptr;
  int64_t size = 0;
  int64_t columns = 0;  // of two dimensions
  bool wide = false;    // 8 bytes a value
};

enum class Kind { kInteger, kFloat32 };

// Throws std::invalid_argument if the object is anything else than such an array.
Given given_array(nb::handle object, Kind kind, int dimensions);

// One block of the pool that becomes arrays, in the order of the calls.
class Output {
 public:
  explicit Output(size_t bytes) : Output(BufferPool::get().take(bytes)) {}
  explicit Output(Block block);
  ~Output();
  Output(const Output&) = delete;

  // The bytes an array takes.
  static size_t bytes(int64_t values, size_t value_bytes) {
    return (static_cast<size_t>(values) * value_bytes + 63) & ~size_t{63};
  }

  template <class T>
  T* place(int64_t values) {
    T* result = reinterpret_cast<T*>(block_.memory + used_);
    used_ += bytes(values, sizeof(T));
    return result;
  }

  // An array over placed memory; it keeps the block from going back to the pool.
  nb::object array(int32_t* data, std::initializer_list<int64_t> shape);
  nb::object array(int64_t* data, std::initializer_list<int64_t> shape);
  nb::object array(float* data, std::initializer_list<int64_t> shape);

 private:
  nb::object array(void* data, int type, std::initializer_list<int64_t> shape);

  Block block_;
  size_t used_ = 0;
  nb::object owner_;
};

// Offsets, from the ascending samples of ids; or the position of the first that is smaller than the
// one before or outside [0, samples).
nb::object offsets_of_samples(nb::handle sample_of_id, int64_t samples);

}  // namespace emberay
