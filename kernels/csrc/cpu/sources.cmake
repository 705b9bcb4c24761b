execute_process(
  COMMAND "${Python_EXECUTABLE}" -c
          "import importlib.util, pathlib; \
print(pathlib.Path(importlib.util.find_spec('jaxlib').origin).parent / 'include')"
  OUTPUT_STRIP_TRAILING_WHITESPACE OUTPUT_VARIABLE jaxlib_include COMMAND_ERROR_IS_FATAL ANY)

emberay_add_module(_cpu_kernels
  kernels/csrc/cpu/arguments.cc
  kernels/csrc/cpu/entries.cc
  kernels/csrc/cpu/groups.cc
  kernels/csrc/cpu/handlers.cc
  kernels/csrc/cpu/huge_pages.cc
  kernels/csrc/cpu/lone_entries.cc
  kernels/csrc/cpu/lookup.cc
  kernels/csrc/cpu/module.cc
  kernels/csrc/cpu/parallel.cc
  kernels/csrc/cpu/row_math.cc
  kernels/csrc/cpu/simd_avx2.cc
  kernels/csrc/cpu/simd_avx512.cc
  kernels/csrc/cpu/simd_baseline.cc
  kernels/csrc/cpu/stretches.cc
  kernels/csrc/cpu/update.cc)
target_include_directories(_cpu_kernels SYSTEM PRIVATE "${jaxlib_include}")
# Square roots need not set errno: only then are they vectorised.
target_compile_options(_cpu_kernels PRIVATE -fno-math-errno -Wno-psabi)
