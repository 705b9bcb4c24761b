// Joining waits for memory most of the time, as rows lie scattered.
#include "kernels/csrc/preprocess/rows.h"

#include <algorithm>
#include <utility>

namespace emberay {
namespace {

struct Row {
  const char* data;
  int64_t size;
  bool wide;
};

// The two types that rows may have: int32 and int64, or float32 and float64.
struct Types {
  int narrow, wide;
  const PyArray_Descr* narrow_descriptor;
  const PyArray_Descr* wide_descriptor;

  Types(int narrow_type, int wide_type)
      : narrow(narrow_type),
        wide(wide_type),
        narrow_descriptor(PyArray_DescrFromType(narrow_type)),
        wide_descriptor(PyArray_DescrFromType(wide_type)) {}

  static const Types& of(bool gains) {  // needs the GIL the first time
    static const Types ids(NPY_INT32, NPY_INT64), floats(NPY_FLOAT32, NPY_FLOAT64);
    return gains ? floats : ids;
  }
};

// What lies ahead is asked for in time, and rows are read from as few cache lines as can be (not
// their flags, but what these would say).
class Prefetcher {
 public:
  explicit Prefetcher(const Objects& objects) : objects_(objects), size_(objects.size()) {
    for (int64_t i = 0; i < std::min(kFar, size_); ++i) of_object(objects_[i]);
  }
  // To be called at every row before it is read.
  void at(int64_t row) const {
    if (row + kFar < size_) of_object(objects_[row + kFar]);
    if (row + kNear < size_) of_parts(objects_[row + kNear]);
  }

 private:
  static constexpr int64_t kFar = 64, kNear = 24;  // rows ahead: objects, and what they point to

  static void of_object(PyObject* object) {
    if (object == nullptr) return;
    __builtin_prefetch(object, 0, 2);
    __builtin_prefetch(reinterpret_cast<const char*>(object) + 56, 0, 2);  // up to the descriptor
  }
  void of_parts(PyObject* object) const {
    if (object == nullptr || Py_TYPE(object) != array_type_) return;
    auto* array = reinterpret_cast<PyArrayObject*>(object);
    __builtin_prefetch(PyArray_DIMS(array), 0, 2);
    __builtin_prefetch(PyArray_BYTES(array), 0, 2);
  }

  const Objects& objects_;
  const int64_t size_;
  const PyTypeObject* array_type_ = &PyArray_Type;
};

// Reads where a row lies. Returns false if it is no array that can be read as it is.
bool read_row(PyObject* object, const Types& types, Row& row) {
  if (object == nullptr || Py_TYPE(object) != &PyArray_Type) return false;
  auto* array = reinterpret_cast<PyArrayObject*>(object);
  if (PyArray_NDIM(array) != 1) return false;
  row.size = PyArray_DIMS(array)[0];
  row.data = PyArray_BYTES(array);
  row.wide = false;
  if (row.size == 0) return true;
  const PyArray_Descr* descriptor = PyArray_DESCR(array);
  if (descriptor != types.narrow_descriptor) {
    const int type = descriptor->type_num;
    const bool has_wide_type =
        type == types.wide || (types.wide == NPY_INT64 && type == NPY_LONGLONG);
    const bool is_wide = descriptor == types.wide_descriptor ||
                         (has_wide_type && PyArray_ISNOTSWAPPED(array));
    const bool is_narrow = type == types.narrow && PyArray_ISNOTSWAPPED(array);
    if (!is_wide && !is_narrow) return false;
    row.wide = is_wide;
  }
  const int64_t bytes = row.wide ? 8 : 4;
  return (PyArray_STRIDES(array)[0] == bytes || row.size == 1) &&
         reinterpret_cast<uintptr_t>(row.data) % bytes == 0;
}

template <class To, class From>
To* copy_row(const Row& row, To* values) {
  const auto* from = reinterpret_cast<const From*>(row.data);
  if (row.size == 1) {  // by far the most frequent where there are many rows
    *values = static_cast<To>(*from);
    return values + 1;
  }
  for (int64_t k = 0; k < row.size; ++k) values[k] = static_cast<To>(from[k]);
  return values + row.size;
}

template <class To, class Wide, class Narrow>
void copy_rows(const Row* rows, int64_t count, To* values) {
  for (const Row* row = rows; row != rows + count; ++row) {
    values = row->wide ? copy_row<To, Wide>(*row, values) : copy_row<To, Narrow>(*row, values);
  }
}

// Copies rows in one pass if all have so many values of this very descriptor; else returns false.
template <class From, class To>
bool copy_rows_alike(const Objects& objects, int64_t size, const PyArray_Descr* descriptor,
                     To* values) {
  const Prefetcher prefetcher(objects);
  const PyTypeObject* array_type = &PyArray_Type;
  const int64_t count = objects.size();
  for (int64_t i = 0; i < count; ++i) {
    prefetcher.at(i);
    PyObject* object = objects[i];
    if (object == nullptr || Py_TYPE(object) != array_type) return false;
    auto* array = reinterpret_cast<PyArrayObject*>(object);
    if (PyArray_NDIM(array) != 1 || PyArray_DESCR(array) != descriptor ||
        PyArray_DIMS(array)[0] != size ||
        (size != 1 && PyArray_STRIDES(array)[0] != sizeof(From)) ||
        reinterpret_cast<uintptr_t>(PyArray_BYTES(array)) % sizeof(From) != 0) {
      return false;
    }
    values = copy_row<To, From>({PyArray_BYTES(array), size, false}, values);
  }
  return true;
}

}  // namespace

Objects::Objects(nb::handle rows) {
  if (PyList_CheckExact(rows.ptr()) || PyTuple_CheckExact(rows.ptr())) {
    first_ = reinterpret_cast<const char*>(PySequence_Fast_ITEMS(rows.ptr()));
    size_ = PySequence_Fast_GET_SIZE(rows.ptr());
    return;
  }
  auto* array = reinterpret_cast<PyArrayObject*>(rows.ptr());
  if (!PyArray_Check(rows.ptr()) || PyArray_TYPE(array) != NPY_OBJECT || PyArray_NDIM(array) != 1) {
    known_ = false;
    return;
  }
  first_ = static_cast<const char*>(PyArray_DATA(array));
  size_ = PyArray_DIM(array, 0);
  stride_ = PyArray_STRIDE(array, 0);
}

Rows::Rows(nb::handle rows, int64_t feature, bool are_gains)
    : objects_(rows), feature_(feature), gains_(are_gains) {
  Types::of(are_gains);
}

void Rows::join(Arena& arena) {
  if (!objects_.known()) {
    odd_ = true;
  } else if (!join_alike()) {
    join_any(arena);
  }
}

bool Rows::same_lengths(const Rows& other) const {
  if (size() != other.size() || total_ != other.total_ || alike_ != other.alike_) return false;
  return alike_ || std::equal(offsets(), offsets() + size() + 1, other.offsets());
}

// Joins rows that are like the first one, as most are; else does nothing and returns false.
bool Rows::join_alike() {
  constexpr int64_t kMostValues = int64_t{1} << 22;  // of what may be taken for nothing
  const Types& types = Types::of(gains_);
  const int64_t count = size();
  Row first;
  if (count == 0 || !read_row(objects_[0], types, first) || first.size == 0) return false;
  if (first.size > kMostValues / count) return false;
  block_ = BufferPool::get().take(Output::bytes(count * first.size, first.wide && !gains_ ? 8 : 4));
  const PyArray_Descr* type = first.wide ? types.wide_descriptor : types.narrow_descriptor;
  alike_ = first.wide ? (gains_ ? copy_alike<double, float>(first.size, type)
                                : copy_alike<int64_t, int64_t>(first.size, type))
                      : (gains_ ? copy_alike<float, float>(first.size, type)
                                : copy_alike<int32_t, int32_t>(first.size, type));
  if (alike_) {
    total_ = count * first.size;
    wide_ = first.wide;
  } else {
    BufferPool::get().give(std::exchange(block_, {}));
  }
  return alike_;
}

template <class From, class To>
bool Rows::copy_alike(int64_t size, const PyArray_Descr* descriptor) {
  return copy_rows_alike<From>(objects_, size, descriptor, reinterpret_cast<To*>(block_.memory));
}

void Rows::join_any(Arena& arena) {
  const Types& types = Types::of(gains_);
  const Prefetcher prefetcher(objects_);
  const int64_t count = size();
  auto* rows = arena.take<Row>(count);
  alike_ = count > 0;
  for (int64_t i = 0; i < count; ++i) {
    prefetcher.at(i);
    if (!read_row(objects_[i], types, rows[i])) {
      odd_ = true;
      return;
    }
    total_ += rows[i].size;
    wide_ |= rows[i].wide;
    alike_ &= rows[i].size == rows[0].size;
  }
  alike_ &= total_ > 0;
  offset_bytes_ = alike_ ? 0 : Output::bytes(count + 1, 8);
  block_ = BufferPool::get().take(offset_bytes_ + Output::bytes(total_, wide_ && !gains_ ? 8 : 4));
  if (!alike_) {
    auto* offsets = reinterpret_cast<int64_t*>(block_.memory);
    offsets[0] = 0;
    for (int64_t i = 0; i < count; ++i) offsets[i + 1] = offsets[i] + rows[i].size;
  }
  std::byte* values = block_.memory + offset_bytes_;
  if (gains_) {
    copy_rows<float, double, float>(rows, count, reinterpret_cast<float*>(values));
  } else if (wide_) {
    copy_rows<int64_t, int64_t, int32_t>(rows, count, reinterpret_cast<int64_t*>(values));
  } else {
    copy_rows<int32_t, int64_t, int32_t>(rows, count, reinterpret_cast<int32_t*>(values));
  }
}

}  // namespace emberay
