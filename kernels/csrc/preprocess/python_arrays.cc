#include "kernels/csrc/preprocess/python_arrays.h"

#include <stdexcept>

namespace emberay {
namespace {

void give_back(PyObject* capsule) {
  auto* block = static_cast<Block*>(PyCapsule_GetPointer(capsule, nullptr));
  BufferPool::get().give(*block);
  delete block;
}

}  // namespace

Given given_array(nb::handle object, Kind kind, int dimensions) {
  if (!PyArray_Check(object.ptr())) throw std::invalid_argument("not a numpy array");
  auto* array = reinterpret_cast<PyArrayObject*>(object.ptr());
  if (PyArray_NDIM(array) != dimensions || !PyArray_ISCARRAY_RO(array)) {
    throw std::invalid_argument("not a contiguous array of the expected dimensions");
  }
  const int type = PyArray_TYPE(array);
  const bool is_integer = PyTypeNum_ISSIGNED(type) && PyTypeNum_ISINTEGER(type);
  const auto bytes = PyArray_ITEMSIZE(array);
  const bool good = kind == Kind::kInteger ? is_integer && (bytes == 4 || bytes == 8)
                                           : type == NPY_FLOAT;
  if (!good) throw std::invalid_argument("an array of another type than expected");
  return {PyArray_DATA(array), PyArray_SIZE(array), dimensions == 2 ? PyArray_DIM(array, 1) : 1,
          bytes == 8};
}

Output::Output(Block block) : block_(block) {
  auto* owned = new Block(block_);
  owner_ = nb::steal(PyCapsule_New(owned, nullptr, give_back));
  if (!owner_.is_valid()) {
    BufferPool::get().give(block_);
    delete owned;
    throw nb::python_error();
  }
}

Output::~Output() = default;

nb::object Output::array(void* data, int type, std::initializer_list<int64_t> shape) {
  npy_intp dimensions[2] = {};
  int count = 0;
  for (const int64_t size : shape) dimensions[count++] = size;
  nb::object result = nb::steal(PyArray_New(&PyArray_Type, count, dimensions, type, nullptr, data,
                                            0, NPY_ARRAY_CARRAY, nullptr));
  if (!result.is_valid()) throw nb::python_error();
  auto* array = reinterpret_cast<PyArrayObject*>(result.ptr());
  if (PyArray_SetBaseObject(array, nb::object(owner_).release().ptr()) != 0) {
    throw nb::python_error();
  }
  return result;
}

nb::object Output::array(int32_t* data, std::initializer_list<int64_t> shape) {
  return array(data, NPY_INT32, shape);
}
nb::object Output::array(int64_t* data, std::initializer_list<int64_t> shape) {
  return array(data, NPY_INT64, shape);
}
nb::object Output::array(float* data, std::initializer_list<int64_t> shape) {
  return array(data, NPY_FLOAT32, shape);
}

}  // namespace emberay
