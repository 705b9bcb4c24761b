emberay_add_module(_preprocess
  kernels/csrc/preprocess/batch.cc
  kernels/csrc/preprocess/buffer_pool.cc
  kernels/csrc/preprocess/deal.cc
  kernels/csrc/preprocess/encode.cc
  kernels/csrc/preprocess/highway_hash.cc
  kernels/csrc/preprocess/joining.cc
  kernels/csrc/preprocess/keys.cc
  kernels/csrc/preprocess/minibatch.cc
  kernels/csrc/preprocess/module.cc
  kernels/csrc/preprocess/python_arrays.cc
  kernels/csrc/preprocess/rows.cc
  kernels/csrc/preprocess/samples.cc
  kernels/csrc/preprocess/thread_pool.cc)
target_link_libraries(_preprocess PRIVATE Python::NumPy)
