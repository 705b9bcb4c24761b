"""From the ids of a batch to the buffers that lookup and update read."""

from kernels.preprocessing.encode import preprocess_sparse_dense_matmul_input
from kernels.preprocessing.format import (
    UNUSED_ENTRY,
    PreprocessedInput,
    SparseDenseMatmulInput,
    SparseDenseMatmulInputStats,
)

__all__ = [
    "UNUSED_ENTRY",
    "PreprocessedInput",
    "SparseDenseMatmulInput",
    "SparseDenseMatmulInputStats",
    "preprocess_sparse_dense_matmul_input",
]
