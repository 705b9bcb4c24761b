// The samples of a sparse tensor's ids, as offsets.
#include <cstdint>
#include <stdexcept>

#include "kernels/csrc/preprocess/python_arrays.h"

namespace emberay {
namespace {

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
