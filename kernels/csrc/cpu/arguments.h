// What handlers are given, checked: a program that was put together wrongly is an error, not a
// crash.
#pragma once

#include <string>

#include "kernels/csrc/cpu/entries.h"
#include "kernels/csrc/cpu/lookup.h"
#include "kernels/csrc/cpu/row_math.h"
#include "xla/ffi/api/ffi.h"

namespace emberay::cpu {

namespace ffi = xla::ffi;

using Integers = ffi::BufferR1<ffi::S32>;
using Floats = ffi::BufferR1<ffi::F32>;
using Matrix = ffi::BufferR2<ffi::F32>;
using Blocks = ffi::BufferR3<ffi::F32>;

inline int64_t rows_of(const Matrix& matrix) { return matrix.dimensions()[0]; }
inline int64_t width_of(const Matrix& matrix) { return matrix.dimensions()[1]; }

// The buffers of a stack and their layout, in the order of the arguments.
struct Batch {
  Layout layout;
  Buffers buffers;

  Batch(int64_t sparsecores, int64_t per_device, int64_t samples_per_core, int64_t rows_per_core,
        bool minibatches, const Integers& pointers, const Integers& ids, const Integers& samples,
        const Floats& gains, const Integers& num_minibatches)
      : layout{sparsecores, per_device, samples_per_core, rows_per_core, minibatches},
        buffers{pointers.typed_data(),
                static_cast<int64_t>(pointers.element_count()),
                ids.typed_data(),
                samples.typed_data(),
                gains.typed_data(),
                static_cast<int64_t>(ids.element_count()),
                num_minibatches.element_count() > 0 ? num_minibatches.typed_data()[0] : 1},
        equal_sizes_(samples.element_count() == ids.element_count() &&
                     gains.element_count() == ids.element_count()) {}

  ffi::Error check() const {
    if (layout.per_device < 1 || layout.sparsecores < 1 ||
        layout.sparsecores % layout.per_device != 0 || layout.samples_per_core < 0 ||
        layout.rows_per_core < 0 || layout.rows_per_core * layout.per_device > kNoRow) {
      return ffi::Error::InvalidArgument("emberay: the layout of the stack cannot be");
    }
    if (!equal_sizes_) {
      return ffi::Error::InvalidArgument("emberay: ids, samples and gains differ in number");
    }
    return ffi::Error::Success();
  }

 private:
  bool equal_sizes_;
};

// A table and its slots, changed in place. XLA gives results the memory of their arguments; where
// it does not, the arguments are copied first.
ffi::Error take_variables(const Matrix& table, ffi::Result<Matrix>& new_table,
                          ffi::RemainingArgs slots, ffi::RemainingRets new_slots,
                          const Floats& hyperparameters, int64_t optimizer, int64_t embedding_dim,
                          Variables& variables);

// An error that says which sizes do not fit each other, or none.
ffi::Error same(const char* what, int64_t found, int64_t expected);

}  // namespace emberay::cpu
