#include "kernels/csrc/cpu/arguments.h"

#include <cstring>

#include "kernels/csrc/cpu/huge_pages.h"

namespace emberay::cpu {
namespace {

constexpr int64_t kSlots[kOptimizers] = {0, 1, 1, 2, 2, 2, 2, 2};
constexpr int64_t kHyperparameters[kOptimizers] = {1, 1, 2, 6, 4, 6, 4, 6};

void keep(const float* before, float* after, size_t count) {
  if (before != after) std::memcpy(after, before, count * sizeof(float));
  use_huge_pages(after, static_cast<int64_t>(count));
}

}  // namespace

ffi::Error same(const char* what, int64_t found, int64_t expected) {
  if (found == expected) return ffi::Error::Success();
  return ffi::Error::InvalidArgument(std::string("emberay: ") + what + " is " +
                                     std::to_string(found) + ", expected " +
                                     std::to_string(expected));
}

ffi::Error take_variables(const Matrix& table, ffi::Result<Matrix>& new_table,
                          ffi::RemainingArgs slots, ffi::RemainingRets new_slots,
                          const Floats& hyperparameters, int64_t optimizer, int64_t embedding_dim,
                          Variables& variables) {
  if (optimizer < 0 || optimizer >= kOptimizers) {
    return ffi::Error::InvalidArgument("emberay: unknown optimizer");
  }
  const int64_t numbers = kHyperparameters[optimizer];
  if (auto error = same("number of slots", slots.size(), kSlots[optimizer]); error.failure()) {
    return error;
  }
  if (auto error = same("number of new slots", new_slots.size(), kSlots[optimizer]);
      error.failure()) {
    return error;
  }
  // The hyperparameters, then the bounds of updated entries.
  if (auto error = same("number of hyperparameters", hyperparameters.element_count(), numbers + 2);
      error.failure()) {
    return error;
  }
  variables = {};
  variables.width = width_of(table);
  variables.embedding_dim = embedding_dim;
  variables.table = new_table->typed_data();
  keep(table.typed_data(), variables.table, table.element_count());
  for (int64_t i = 0; i < numbers; ++i) {
    variables.hyperparameters[i] = hyperparameters.typed_data()[i];
  }
  variables.low = hyperparameters.typed_data()[numbers];
  variables.high = hyperparameters.typed_data()[numbers + 1];

  const bool one_column = static_cast<Optimizer>(optimizer) == Optimizer::kRowWiseAdagrad;
  for (int64_t s = 0; s < kSlots[optimizer]; ++s) {
    auto before = slots.get<Matrix>(s);
    auto after = new_slots.get<Matrix>(s);
    if (!before.has_value() || !after.has_value()) {
      return ffi::Error::InvalidArgument("emberay: a slot variable is no float32 matrix");
    }
    if (auto error = same("rows of a slot", rows_of(*before), rows_of(table)); error.failure()) {
      return error;
    }
    const int64_t width = one_column ? 1 : variables.width;
    if (auto error = same("columns of a slot", width_of(*before), width); error.failure()) {
      return error;
    }
    variables.slots[s] = (*after)->typed_data();
    variables.slot_widths[s] = width;
    keep(before->typed_data(), variables.slots[s], before->element_count());
  }
  return ffi::Error::Success();
}

}  // namespace emberay::cpu
