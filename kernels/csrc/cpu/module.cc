// The Python module: the handlers, to be registered with jax.ffi, and what tests turn.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "kernels/csrc/cpu/handlers.h"
#include "kernels/csrc/cpu/parallel.h"
#include "kernels/csrc/cpu/row_math.h"

namespace nb = nanobind;

namespace {

nb::dict handlers() {
  nb::dict found;
  const auto add = [&](const char* name, XLA_FFI_Handler* handler) {
    found[name] = nb::capsule(reinterpret_cast<void*>(handler));
  };
  add("emberay_lookup", emberay::cpu::emberay_lookup);
  add("emberay_requests", emberay::cpu::emberay_requests);
  add("emberay_read_rows", emberay::cpu::emberay_read_rows);
  add("emberay_combine", emberay::cpu::emberay_combine);
  add("emberay_row_gradients", emberay::cpu::emberay_row_gradients);
  add("emberay_merge_rows", emberay::cpu::emberay_merge_rows);
  add("emberay_update", emberay::cpu::emberay_update);
  add("emberay_update_rows", emberay::cpu::emberay_update_rows);
  return found;
}

}  // namespace

NB_MODULE(_cpu_kernels, module) {
  module.doc() = "Lookup and update on CPUs: handlers for XLA.";
  module.def("handlers", &handlers, "Capsules by name, for jax.ffi.register_ffi_target.");
  module.def("set_threads", &emberay::cpu::set_threads, nb::arg("threads"),
             "Cut the work for so many threads; 0 for those of XLA's pool.");
  module.def("levels", &emberay::cpu::levels,
             "Levels of vector instructions that this machine has, best first.");
  module.def("use_level", &emberay::cpu::use_level, nb::arg("name"),
             "Take another level than the best; False if there is none of that name.");
}
