// The Python module kernels._preprocess. Private: kernels/preprocessing/native_engine.py calls it.
#define EMBERAY_IMPORTS_NUMPY
#include "kernels/csrc/preprocess/joining.h"

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
#include "kernels/csrc/preprocess/thread_pool.h"

namespace emberay {
namespace {

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

// What is wrong with a batch: a set of the features that have odd rows, or (code, feature, sample);
// nothing if all is well.
nb::object wrong_of(const Batch& batch, const Trouble& found) {
  if (!batch.odd.empty()) {
    nb::set odd;
    for (const int64_t feature : batch.odd) odd.add(nb::int_(feature));
    return odd;
  }
  const Trouble& trouble = batch.is_wrong() ? batch.trouble : found;
  if (trouble.code == Code::kNone) return {};
  return nb::make_tuple(static_cast<int>(trouble.code), trouble.feature, trouble.sample);
}

RunTasks runner_of(Batch& batch) {
  return [&](int64_t count, const Task& task) { return join_and_run(batch, count, task); };
}

nb::object encode_batch(nb::list feature_items, nb::list stack_items, int64_t local_devices,
                        int64_t per_device, int64_t sparsecores) {
  Batch batch = read_batch(feature_items, stack_items, local_devices, per_device, sparsecores);
  const Shape& shape = batch.shape;
  Output output(output_bytes(batch.stacks, shape));
  for (Stack& stack : batch.stacks) place(stack, shape, output);
  const Trouble trouble = encode(batch.features, batch.stacks, shape, runner_of(batch));
  if (nb::object wrong = wrong_of(batch, trouble); wrong.is_valid()) return wrong;
  nb::list result;
  for (const Stack& stack : batch.stacks) result.append(arrays_of(stack, shape, output));
  return result;
}

// A batch between the steps of minibatching: each once, in order. Which step comes next is decided
// while the GIL is held, so that no two threads work on the same batch.
class BatchInSteps {
 public:
  BatchInSteps(std::vector<Stack> stacks, const Shape& shape) : batch_(std::move(stacks), shape) {}
  BatchInSteps(const BatchInSteps&) = delete;

  Trouble sort(Batch& batch) { return batch_.sort(batch.features, runner_of(batch)); }

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
  auto result = std::make_unique<BatchInSteps>(batch.stacks, batch.shape);
  const Trouble trouble = result->sort(batch);
  if (nb::object wrong = wrong_of(batch, trouble); wrong.is_valid()) return wrong;
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
  m.def("offsets_of_samples", &emberay::offsets_of_samples);
  m.def("counters", &emberay::counters);
  m.def("set_threads", &emberay::ThreadPool::set_threads);
  m.attr("vector_level") = emberay::vector_level();
}
