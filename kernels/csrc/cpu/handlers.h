// The handlers that XLA calls; kernels/backends/cpu_calls.py is the other side.
#pragma once

#include "xla/ffi/api/ffi.h"

namespace emberay::cpu {

XLA_FFI_DECLARE_HANDLER_SYMBOL(emberay_lookup);
XLA_FFI_DECLARE_HANDLER_SYMBOL(emberay_requests);
XLA_FFI_DECLARE_HANDLER_SYMBOL(emberay_read_rows);
XLA_FFI_DECLARE_HANDLER_SYMBOL(emberay_combine);
XLA_FFI_DECLARE_HANDLER_SYMBOL(emberay_row_gradients);
XLA_FFI_DECLARE_HANDLER_SYMBOL(emberay_merge_rows);
XLA_FFI_DECLARE_HANDLER_SYMBOL(emberay_update);
XLA_FFI_DECLARE_HANDLER_SYMBOL(emberay_update_rows);

}  // namespace emberay::cpu
