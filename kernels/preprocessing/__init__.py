"""From the ids of a batch to the buffers that lookup and update read."""

from kernels.preprocessing.all_reduce import TcpAllReduce, get_all_reduce_interface
from kernels.preprocessing.encode import (
    preprocess_sparse_dense_matmul_input,
    preprocess_sparse_dense_matmul_input_from_sparse_tensor,
)
from kernels.preprocessing.format import (
    UNUSED_ENTRY,
    PreprocessedInput,
    SparseDenseMatmulInput,
    SparseDenseMatmulInputStats,
)
from kernels.preprocessing.minibatching import AllReduceInterface
from kernels.preprocessing.sizes import (
    compute_coo_buffer_size_per_device,
    compute_row_pointers_size_per_device,
    compute_theoretical_max_coo_buffer_size,
    eval_preprocess_sparse_dense_matmul_input_shape,
)

__all__ = [
    "UNUSED_ENTRY",
    "AllReduceInterface",
    "PreprocessedInput",
    "SparseDenseMatmulInput",
    "SparseDenseMatmulInputStats",
    "TcpAllReduce",
    "compute_coo_buffer_size_per_device",
    "compute_row_pointers_size_per_device",
    "compute_theoretical_max_coo_buffer_size",
    "eval_preprocess_sparse_dense_matmul_input_shape",
    "get_all_reduce_interface",
    "preprocess_sparse_dense_matmul_input",
    "preprocess_sparse_dense_matmul_input_from_sparse_tensor",
]
