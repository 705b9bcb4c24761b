// The Python module kernels._preprocess. Private: kernels/preprocessing/native_engine.py calls it.
#define EMBERAY_IMPORTS_NUMPY
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>

#include <algorithm>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "kernels/csrc/preprocess/cuts.h"
#include "kernels/csrc/preprocess/encode.h"
#include "kernels/csrc/preprocess/keys.h"
#include "kernels/csrc/preprocess/minibatch.h"
#include "kernels/csrc/preprocess/python_arrays.h"
#include "kernels/csrc/preprocess/thread_pool.h"

namespace emberay {
namespace {

constexpr int64_t kMostEntries = 0x7fffffff;

void require(bool condition, const char* what) {
  if (!condition) throw std::invalid_argument(what);
}

int64_t number(nb::handle item) {
  const long long value = PyLong_AsLongLong(item.ptr());
  if (value == -1 && PyErr_Occurred()) throw nb::python_error();
  return value;
}

// From (ids, offsets, gains, samples, vocabulary, first sample, row add, shift, combiner).
Feature read_feature(nb::handle item, const Shape& shape) {
  require(PyTuple_CheckExact(item.ptr()) && PyTuple_GET_SIZE(item.ptr()) == 9, "not a feature");
  auto at = [&](int i) { return nb::handle(PyTuple_GET_ITEM(item.ptr(), i)); };
  Feature feature;
  const bool has_offsets = !at(1).is_none();
  const Given ids = given_array(at(0), Kind::kInteger, has_offsets ? 1 : 2);
  feature.ids = ids.data;
  feature.wide_ids = ids.wide;
  feature.num_ids = ids.size;
  feature.valency = ids.columns;
  feature.samples = number(at(3));
  feature.vocabulary = number(at(4));
  feature.first_sample = number(at(5));
  feature.row_add = number(at(6));
  feature.shift = number(at(7));
  const int64_t combiner = number(at(8));
  require(combiner >= 0 && combiner <= 2, "an unknown combiner");
  feature.combiner = static_cast<Combiner>(combiner);
  require(feature.samples >= 0 && feature.samples % shape.sources() == 0, "a wrong sample count");
  if (has_offsets) {
    const Given offsets = given_array(at(1), Kind::kInteger, 1);
    require(offsets.size == feature.samples + 1, "a wrong number of offsets");
    feature.offsets = offsets.data;
    feature.wide_offsets = offsets.wide;
  } else {
    require(feature.samples * feature.valency == feature.num_ids, "a wrong number of samples");
  }
  if (!at(2).is_none()) {
    const Given gains = given_array(at(2), Kind::kFloat32, has_offsets ? 1 : 2);
    if (has_offsets) feature.num_ids = std::min(ids.size, gains.size);
    require(gains.size >= feature.num_ids && gains.columns == ids.columns, "too few gains");
    feature.gains = static_cast<const float*>(gains.data);
  }
  require(feature.vocabulary > 0 && feature.vocabulary <= kMostEntries * shape.sparsecores &&
              feature.row_add >= 0 && feature.row_add <= kMostEntries &&
              (feature.vocabulary - 1) / shape.sparsecores + feature.row_add < kMostEntries &&
              feature.shift >= 0 && feature.shift < shape.sparsecores,
          "rows beyond 2^31");
  require(feature.first_sample >= 0 &&
              feature.first_sample < kMostEntries - feature.samples / shape.sources(),
          "samples beyond 2^31");
  return feature;
}

// From (number of features, max ids, max unique ids, buffer).
Stack read_stack(nb::handle item, int64_t num_features, int64_t first_feature) {
  require(PyTuple_CheckExact(item.ptr()) && PyTuple_GET_SIZE(item.ptr()) == 4, "not a stack");
  auto at = [&](int i) { return number(PyTuple_GET_ITEM(item.ptr(), i)); };
  Stack stack;
  stack.first_feature = first_feature;
  stack.num_features = at(0);
  stack.max_ids = at(1);
  stack.max_unique_ids = at(2);
  stack.buffer = at(3);
  require(stack.num_features > 0 && stack.num_features <= num_features - first_feature,
          "a wrong number of features");
  require(stack.buffer >= 0 && stack.buffer <= kMostEntries && stack.buffer % kAlignment == 0,
          "a wrong buffer size");
  return stack;
}

size_t output_bytes(std::span<const Stack> stacks, const Shape& shape) {
  size_t bytes = 0;
  for (const Stack& stack : stacks) {
    bytes += Output::bytes(shape.sources() * shape.most_minibatches * shape.pointers(), 4);
    bytes += 3 * Output::bytes(shape.sources() * stack.buffer, 4);
    bytes += 2 * Output::bytes(shape.local_devices * shape.sparsecores, 4);
    bytes += Output::bytes(shape.sources(), 4);
  }
  return bytes;
}

void place(Stack& stack, const Shape& shape, Output& output) {
  stack.row_pointers =
      output.place<int32_t>(shape.sources() * shape.most_minibatches * shape.pointers());
  stack.embedding_ids = output.place<int32_t>(shape.sources() * stack.buffer);
  stack.sample_ids = output.place<int32_t>(shape.sources() * stack.buffer);
  stack.gains = output.place<float>(shape.sources() * stack.buffer);
  stack.max_ids_seen = output.place<int32_t>(shape.local_devices * shape.sparsecores);
  stack.max_unique_seen = output.place<int32_t>(shape.local_devices * shape.sparsecores);
  stack.required = output.place<int32_t>(shape.sources());
}

nb::tuple arrays_of(const Stack& stack, const Shape& shape, Output& output) {
  const int64_t entries = shape.sources() * stack.buffer;
  const int64_t seen = shape.local_devices * shape.sparsecores;
  const int64_t pointers = shape.most_minibatches * shape.pointers();
  return nb::make_tuple(output.array(stack.row_pointers, {shape.sources(), pointers}),
                        output.array(stack.embedding_ids, {entries}),
                        output.array(stack.sample_ids, {entries}),
                        output.array(stack.gains, {entries}),
                        output.array(stack.max_ids_seen, {seen}),
                        output.array(stack.max_unique_seen, {seen}),
                        output.array(stack.required, {shape.sources()}), stack.dropped,
                        stack.exceeds);
}

struct Batch {
  Shape shape;
  std::vector<Feature> features;
  std::vector<Stack> stacks;
};

Batch read_batch(nb::list feature_items, nb::list stack_items, int64_t local_devices,
                 int64_t per_device, int64_t sparsecores) {
  require(local_devices > 0 && per_device > 0 && sparsecores > 0 && sparsecores <= (1 << 24) &&
              local_devices <= sparsecores && per_device <= sparsecores / local_devices,
          "impossible numbers of devices and SparseCores");
  Batch batch{{local_devices, per_device, sparsecores}, {}, {}};
  batch.features.reserve(feature_items.size());
  for (nb::handle item : feature_items) batch.features.push_back(read_feature(item, batch.shape));
  batch.stacks.reserve(stack_items.size());
  int64_t first = 0;
  for (nb::handle item : stack_items) {
    batch.stacks.push_back(read_stack(item, static_cast<int64_t>(batch.features.size()), first));
    first += batch.stacks.back().num_features;
  }
  return batch;
}

nb::tuple trouble_of(const Trouble& trouble) {
  return nb::make_tuple(static_cast<int>(trouble.code), trouble.feature, trouble.sample);
}

nb::object encode_batch(nb::list feature_items, nb::list stack_items, int64_t local_devices,
                        int64_t per_device, int64_t sparsecores) {
  Batch batch = read_batch(feature_items, stack_items, local_devices, per_device, sparsecores);
  auto& [shape, features, stacks] = batch;
  Output output(output_bytes(stacks, shape));
  for (Stack& stack : stacks) place(stack, shape, output);
  Trouble trouble;
  {
    nb::gil_scoped_release released;
    trouble = encode(features, stacks, shape);
  }
  if (trouble.code != Code::kNone) return trouble_of(trouble);
  nb::list result;
  for (const Stack& stack : stacks) result.append(arrays_of(stack, shape, output));
  return result;
}

// A batch between the steps of minibatching: each once, in order. Which step comes next is decided
// while the GIL is held, so that no two threads work on the same batch.
class BatchInSteps {
 public:
  BatchInSteps(std::vector<Stack> stacks, const Shape& shape) : batch_(std::move(stacks), shape) {}
  BatchInSteps(const BatchInSteps&) = delete;

  Trouble sort(std::span<const Feature> features) {
    nb::gil_scoped_release released;
    return batch_.sort(features);
  }

  bool exceeds() const { return batch_.exceeds(); }

  uint64_t deal() {
    require(!dealt_ && !written_, "dealt already");
    dealt_ = true;
    written_ = true;  // no other step meanwhile
    uint64_t cuts;
    {
      nb::gil_scoped_release released;
      cuts = batch_.deal();
    }
    written_ = false;
    return cuts;
  }

  // The arrays of every stack.
  nb::list write(uint64_t cuts) {
    require(!written_, "written already");
    require(dealt_ ? cuts >> (kBuckets - 1) == 0 : cuts == 0, "cuts of no tree");
    written_ = true;
    Output output(output_bytes(batch_.stacks(), batch_.shape()));
    for (Stack& stack : batch_.stacks()) place(stack, batch_.shape(), output);
    {
      nb::gil_scoped_release released;
      batch_.write(cuts);
    }
    nb::list result;
    for (const Stack& stack : batch_.stacks()) {
      result.append(arrays_of(stack, batch_.shape(), output));
    }
    return result;
  }

  // For every stack: most ids and different ids of a bucket, and entries that a device needs.
  nb::list needs() const {
    nb::list result;
    for (const Needs& needs : batch_.needs()) {
      result.append(nb::make_tuple(needs.ids, needs.unique_ids, needs.entries));
    }
    return result;
  }

 private:
  MinibatchedBatch batch_;
  bool dealt_ = false;
  bool written_ = false;
};

nb::object sort_batch(nb::list feature_items, nb::list stack_items, int64_t local_devices,
                      int64_t per_device, int64_t sparsecores) {
  Batch batch = read_batch(feature_items, stack_items, local_devices, per_device, sparsecores);
  for (const Stack& stack : batch.stacks) {
    require(stack.buffer <= kMostEntries / per_device, "a buffer beyond 2^31");
  }
  batch.shape.most_minibatches = kBuckets;
  auto result = std::make_unique<BatchInSteps>(std::move(batch.stacks), batch.shape);
  const Trouble trouble = result->sort(batch.features);
  if (trouble.code != Code::kNone) return trouble_of(trouble);
  return nb::cast(std::move(result));
}

nb::dict counters() {
  const BufferPool::Counters pool = BufferPool::get().counters();
  nb::dict result;
  result["blocks_allocated"] = pool.allocated;
  result["blocks_reused"] = pool.reused;
  result["bytes_in_use"] = pool.bytes_in_use;
  result["bytes_free"] = pool.bytes_free;
  result["scratch_bytes"] = ThreadPool::get().scratch_bytes();
  result["threads"] = ThreadPool::get().threads();
  return result;
}

void* import_numpy() {
  import_array();
  return nullptr;
}

}  // namespace
}  // namespace emberay

NB_MODULE(_preprocess, m) {
  emberay::import_numpy();
  if (PyErr_Occurred()) throw nanobind::python_error();
  m.def("encode", &emberay::encode_batch);
  m.def("sort", &emberay::sort_batch);
  nanobind::class_<emberay::BatchInSteps>(m, "BatchInSteps")
      .def_prop_ro("exceeds", &emberay::BatchInSteps::exceeds)
      .def_prop_ro("needs", &emberay::BatchInSteps::needs)
      .def("deal", &emberay::BatchInSteps::deal)
      .def("write", &emberay::BatchInSteps::write);
  m.def("join_rows", &emberay::join_rows);
  m.def("offsets_of_samples", &emberay::offsets_of_samples);
  m.def("counters", &emberay::counters);
  m.def("set_threads", &emberay::ThreadPool::set_threads);
  m.attr("vector_level") = emberay::vector_level();
}
