// Ragged input: rows that are arrays of their own, and samples of sparse tensors.
#include <algorithm>
#include <stdexcept>
#include <utility>
#include <vector>

#include "kernels/csrc/preprocess/python_arrays.h"
#include "kernels/csrc/preprocess/thread_pool.h"

namespace emberay {
namespace {

struct Row {
  const char* data;
  int64_t size;
  bool wide;
};

// The objects of a sequence, which stay alive and in place while the GIL is held.
class Objects {
 public:
  explicit Objects(nb::handle rows) {
    if (PyList_CheckExact(rows.ptr()) || PyTuple_CheckExact(rows.ptr())) {
      first_ = reinterpret_cast<const char*>(PySequence_Fast_ITEMS(rows.ptr()));
      size_ = PySequence_Fast_GET_SIZE(rows.ptr());
      return;
    }
    auto* array = reinterpret_cast<PyArrayObject*>(rows.ptr());
    if (!PyArray_Check(rows.ptr()) || PyArray_TYPE(array) != NPY_OBJECT ||
        PyArray_NDIM(array) != 1) {
      known_ = false;
      return;
    }
    first_ = static_cast<const char*>(PyArray_DATA(array));
    size_ = PyArray_DIM(array, 0);
    stride_ = PyArray_STRIDE(array, 0);
  }
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

  static const Types& of(bool gains) {
    static const Types ids(NPY_INT32, NPY_INT64), floats(NPY_FLOAT32, NPY_FLOAT64);
    return gains ? floats : ids;
  }
};

// Rows are scattered in memory, and waiting for them is what joining costs: so what lies ahead is
// asked for in time, and rows are read from as few cache lines as can be (not their flags, but what
// these would say).
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
    const bool is_wide = descriptor == types.wide_descriptor ||
                         ((type == types.wide || (types.wide == NPY_INT64 && type == NPY_LONGLONG)) &&
                          PyArray_ISNOTSWAPPED(array));
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

// One sequence of rows, joined in a block of the pool: offsets, unless all rows are as long, then
// values.
struct Joined {
  Objects objects;
  bool gains;
  int64_t stranger = -1;  // the first row that is something else
  int64_t total = 0;
  bool wide = false;
  bool alike = false;  // all rows are as long, and not empty
  Block block{};

  Joined(nb::handle rows, bool are_gains) : objects(rows), gains(are_gains) {}
  Joined(Joined&& other) noexcept : Joined(other) { other.block = {}; }
  ~Joined() {
    if (block.memory != nullptr) BufferPool::get().give(block);
  }

  void join(Arena& arena) {
    if (!objects.known()) {
      stranger = 0;
    } else if (!join_alike()) {
      join_any(arena);
    }
  }

  nb::object result() {
    if (stranger >= 0) return nb::int_(stranger);
    const int64_t count = objects.size();
    Output output(std::exchange(block, {}));
    nb::object offsets = nb::none();
    if (!alike) offsets = output.array(output.place<int64_t>(count + 1), {count + 1});
    return nb::make_tuple(gains  ? values<float>(output)
                          : wide ? values<int64_t>(output)
                                 : values<int32_t>(output),
                          offsets);
  }

 private:
  Joined(const Joined&) = default;

  // Joins rows that are like the first one, as most are; else does nothing and returns false.
  bool join_alike() {
    constexpr int64_t kMostValues = int64_t{1} << 22;  // of what may be taken for nothing
    const Types& types = Types::of(gains);
    const int64_t count = objects.size();
    Row first;
    if (count == 0 || !read_row(objects[0], types, first) || first.size == 0) return false;
    if (first.size > kMostValues / count) return false;
    block = BufferPool::get().take(Output::bytes(count * first.size, first.wide && !gains ? 8 : 4));
    alike = first.wide ? (gains ? copy_alike<double, float>(first.size, types.wide_descriptor)
                                : copy_alike<int64_t, int64_t>(first.size, types.wide_descriptor))
                       : (gains ? copy_alike<float, float>(first.size, types.narrow_descriptor)
                                : copy_alike<int32_t, int32_t>(first.size, types.narrow_descriptor));
    if (alike) {
      total = count * first.size;
      wide = first.wide;
    } else {
      BufferPool::get().give(std::exchange(block, {}));
    }
    return alike;
  }

  template <class From, class To>
  bool copy_alike(int64_t size, const PyArray_Descr* descriptor) {
    return copy_rows_alike<From>(objects, size, descriptor, reinterpret_cast<To*>(block.memory));
  }

  void join_any(Arena& arena) {
    const Types& types = Types::of(gains);
    const Prefetcher prefetcher(objects);
    const int64_t count = objects.size();
    auto* rows = arena.take<Row>(count);
    alike = count > 0;
    for (int64_t i = 0; i < count; ++i) {
      prefetcher.at(i);
      if (!read_row(objects[i], types, rows[i])) {
        stranger = i;
        return;
      }
      total += rows[i].size;
      wide |= rows[i].wide;
      alike &= rows[i].size == rows[0].size;
    }
    alike &= total > 0;
    const size_t offset_bytes = alike ? 0 : Output::bytes(count + 1, 8);
    block = BufferPool::get().take(offset_bytes + Output::bytes(total, wide && !gains ? 8 : 4));
    if (!alike) {
      auto* offsets = reinterpret_cast<int64_t*>(block.memory);
      offsets[0] = 0;
      for (int64_t i = 0; i < count; ++i) offsets[i + 1] = offsets[i] + rows[i].size;
    }
    std::byte* values = block.memory + offset_bytes;
    if (gains) {
      copy_rows<float, double, float>(rows, count, reinterpret_cast<float*>(values));
    } else if (wide) {
      copy_rows<int64_t, int64_t, int32_t>(rows, count, reinterpret_cast<int64_t*>(values));
    } else {
      copy_rows<int32_t, int64_t, int32_t>(rows, count, reinterpret_cast<int32_t*>(values));
    }
  }

  template <class T>
  nb::object values(Output& output) {
    const int64_t count = objects.size();
    T* placed = output.place<T>(total);
    return alike ? output.array(placed, {count, total / count}) : output.array(placed, {total});
  }
};

template <class Sample>
int64_t fill_offsets(const char* samples_of_ids, int64_t stride, int64_t ids, int64_t samples,
                     int64_t* offsets) {
  int64_t previous = -1;
  for (int64_t i = 0; i < ids; ++i) {
    const int64_t sample = *reinterpret_cast<const Sample*>(samples_of_ids + i * stride);
    if (sample < previous || sample < 0 || sample >= samples) return i;
    while (previous < sample) offsets[++previous] = i;
  }
  while (previous < samples) offsets[++previous] = ids;
  return -1;
}

}  // namespace

nb::list join_rows(nb::list sequences) {
  std::vector<Joined> all;
  all.reserve(sequences.size());
  int64_t rows = 0;
  for (nb::handle item : sequences) {
    if (!PyTuple_CheckExact(item.ptr()) || PyTuple_GET_SIZE(item.ptr()) != 2) {
      throw std::invalid_argument("not a pair of rows and whether they are gains");
    }
    all.emplace_back(nb::handle(PyTuple_GET_ITEM(item.ptr(), 0)),
                     PyTuple_GET_ITEM(item.ptr(), 1) == Py_True);
    rows += all.back().objects.size();
  }
  Types::of(false);  // made before threads ask for it
  Types::of(true);
  constexpr int64_t kRowsWorthAThread = 2048;
  const auto count = static_cast<int64_t>(all.size());
  // The GIL stays held: so no other Python thread changes a row while the pool's threads read.
  if (rows < kRowsWorthAThread) {
    ThreadPool::get().run(1, [&](int64_t, Arena& arena) {
      for (Joined& joined : all) {
        arena.reset();
        joined.join(arena);
      }
    });
  } else {
    ThreadPool::get().run(
        count, [&](int64_t i, Arena& arena) { all[i].join(arena); }, /*more_follows=*/true);
  }
  nb::list result;
  for (Joined& joined : all) result.append(joined.result());
  return result;
}

nb::object offsets_of_samples(nb::handle sample_of_id, int64_t samples) {
  auto* array = reinterpret_cast<PyArrayObject*>(sample_of_id.ptr());
  if (!PyArray_Check(sample_of_id.ptr()) || PyArray_NDIM(array) != 1 ||
      !PyArray_ISBEHAVED_RO(array) || !PyTypeNum_ISSIGNED(PyArray_TYPE(array)) ||
      !PyTypeNum_ISINTEGER(PyArray_TYPE(array)) || PyArray_ITEMSIZE(array) < 4 || samples < 0) {
    throw std::invalid_argument("samples must be an array of int32 or int64");
  }
  const auto* data = static_cast<const char*>(PyArray_DATA(array));
  const int64_t ids = PyArray_DIM(array, 0), stride = PyArray_STRIDE(array, 0);
  const auto fill = PyArray_ITEMSIZE(array) == 8 ? fill_offsets<int64_t> : fill_offsets<int32_t>;
  Output output(Output::bytes(samples + 1, 8));
  auto* offsets = output.place<int64_t>(samples + 1);
  int64_t wrong = 0;
  {
    nb::gil_scoped_release released;
    wrong = fill(data, stride, ids, samples, offsets);
  }
  if (wrong >= 0) return nb::int_(wrong);
  return output.array(offsets, {samples + 1});
}

}  // namespace emberay
