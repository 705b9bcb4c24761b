"""From the ids of a batch to the buffers that lookup and update read."""

from kernels.preprocessing.encode import preprocess_sparse_dense_matmul_input
from kernels.preprocessing.format import (
    PADDING_ID,
    PreprocessedInput,
    SparseDenseMatmulInput,
    SparseDenseMatmulInputStats,
)

__all__ = [
    "PADDING_ID",
    "PreprocessedInput",
    "SparseDenseMatmulInput",
    "SparseDenseMatmulInputStats",
    "preprocess_sparse_dense_matmul_input",
]
