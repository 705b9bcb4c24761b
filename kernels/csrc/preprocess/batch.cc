#include "kernels/csrc/preprocess/batch.h"

#include <algorithm>

namespace emberay {
namespace {

int64_t number(nb::handle item) {
  const long long value = PyLong_AsLongLong(item.ptr());
  if (value == -1 && PyErr_Occurred()) throw nb::python_error();
  return value;
}

bool is_plain(nb::handle object) {
  return PyArray_Check(object.ptr()) &&
         PyArray_TYPE(reinterpret_cast<PyArrayObject*>(object.ptr())) != NPY_OBJECT;
}

bool may_be_rows(nb::handle object) {
  return PyList_Check(object.ptr()) || PyTuple_Check(object.ptr()) ||
         (PyArray_Check(object.ptr()) && !is_plain(object));
}

void read_arrays(nb::handle ids_item, nb::handle offsets_item, nb::handle gains_item,
                 Feature& feature) {
  const bool has_offsets = !offsets_item.is_none();
  const Given ids = given_array(ids_item, Kind::kInteger, has_offsets ? 1 : 2);
  feature.ids = ids.data;
  feature.wide_ids = ids.wide;
  feature.num_ids = ids.size;
  feature.valency = ids.columns;
  if (has_offsets) {
    const Given offsets = given_array(offsets_item, Kind::kInteger, 1);
    require(offsets.size == feature.samples + 1, "a wrong number of offsets");
    feature.offsets = offsets.data;
    feature.wide_offsets = offsets.wide;
  } else {
    require(feature.samples * feature.valency == feature.num_ids, "a wrong number of samples");
  }
  if (gains_item.is_none()) return;
  const Given gains = given_array(gains_item, Kind::kFloat32, has_offsets ? 1 : 2);
  if (has_offsets) feature.num_ids = std::min(ids.size, gains.size);
  require(gains.size >= feature.num_ids && gains.columns == ids.columns, "too few gains");
  feature.gains = static_cast<const float*>(gains.data);
}

void read_feature(nb::handle item, Batch& batch) {
  require(PyTuple_CheckExact(item.ptr()) && PyTuple_GET_SIZE(item.ptr()) == 9, "not a feature");
  auto at = [&](int i) { return nb::handle(PyTuple_GET_ITEM(item.ptr(), i)); };
  const Shape& shape = batch.shape;
  Feature feature;
  feature.samples = number(at(3));
  feature.vocabulary = number(at(4));
  feature.first_sample = number(at(5));
  feature.row_add = number(at(6));
  feature.shift = number(at(7));
  const int64_t combiner = number(at(8));
  require(combiner >= 0 && combiner <= 2, "an unknown combiner");
  feature.combiner = static_cast<Combiner>(combiner);
  require(feature.samples >= 0 && feature.samples % shape.sources() == 0, "a wrong sample count");
  require(feature.vocabulary > 0 && feature.vocabulary <= kMostEntries * shape.sparsecores &&
              feature.row_add >= 0 && feature.row_add <= kMostEntries &&
              (feature.vocabulary - 1) / shape.sparsecores + feature.row_add < kMostEntries &&
              feature.shift >= 0 && feature.shift < shape.sparsecores,
          "rows beyond 2^31");
  require(feature.first_sample >= 0 &&
              feature.first_sample < kMostEntries - feature.samples / shape.sources(),
          "samples beyond 2^31");
  if (!at(1).is_none() || is_plain(at(0))) {
    read_arrays(at(0), at(1), at(2), feature);
  } else {
    const auto position = static_cast<int64_t>(batch.features.size());
    require(may_be_rows(at(0)) && (at(2).is_none() || may_be_rows(at(2))), "not rows");
    batch.rows.emplace_back(at(0), position, false);
    const Rows& rows = batch.rows.back();
    require(!rows.known() || rows.size() == feature.samples, "a wrong number of samples");
    if (!at(2).is_none()) batch.rows.emplace_back(at(2), position, true);
  }
  batch.features.push_back(feature);
}

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

}  // namespace

void Batch::take_rows(const Stack& stack) {
  const Rows* ids = nullptr;
  for (const Rows& one : rows) {
    const int64_t number = one.feature();
    const int64_t last_feature = stack.first_feature + stack.num_features - 1;
    if (number < stack.first_feature || number > last_feature) continue;
    if (one.odd()) odd.push_back(number);
    if (is_wrong()) continue;
    Feature& feature = features[number];
    if (one.gains()) {
      feature.gains = static_cast<const float*>(one.values());
      if (!one.same_lengths(*ids)) trouble = {Code::kGainsDiffer, number, 0};
      continue;
    }
    ids = &one;
    feature.ids = one.values();
    feature.wide_ids = one.wide();
    feature.num_ids = one.total();
    feature.offsets = one.offsets();
    feature.wide_offsets = true;
    feature.valency = one.alike() ? one.total() / one.size() : 0;
  }
}

Batch read_batch(nb::list feature_items, nb::list stack_items, int64_t local_devices,
                 int64_t per_device, int64_t sparsecores) {
  require(local_devices > 0 && per_device > 0 && sparsecores > 0 && sparsecores <= (1 << 24) &&
              local_devices <= sparsecores && per_device <= sparsecores / local_devices,
          "impossible numbers of devices and SparseCores");
  Batch batch{{local_devices, per_device, sparsecores}, {}, {}, {}, {}, {}};
  batch.features.reserve(feature_items.size());
  batch.rows.reserve(2 * feature_items.size());
  for (nb::handle item : feature_items) read_feature(item, batch);
  batch.stacks.reserve(stack_items.size());
  int64_t first = 0;
  for (nb::handle item : stack_items) {
    batch.stacks.push_back(read_stack(item, static_cast<int64_t>(batch.features.size()), first));
    first += batch.stacks.back().num_features;
  }
  require(first == static_cast<int64_t>(batch.features.size()), "features of no stack");
  return batch;
}

}  // namespace emberay
