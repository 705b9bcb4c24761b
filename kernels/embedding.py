"""The names of ``nn.embedding`` of jax-tpu-embedding, gathered from where they live."""

from __future__ import annotations

import jax
import numpy as np

from kernels.activations import stack_embedding_gradients, unstack_embedding_activations
from kernels.fdo.parameters import update_preprocessing_parameters
from kernels.initialization import init_embedding_variables
from kernels.lookup import tpu_sparse_dense_matmul
from kernels.planning.auto_stacking import auto_stack_tables
from kernels.planning.preparation import prepare_feature_specs_for_training
from kernels.planning.stacking import (
    get_default_limits,
    get_stacked_table_specs,
    get_table_specs,
)
from kernels.preprocessing import (
    PreprocessedInput,
    SparseDenseMatmulInput,
    SparseDenseMatmulInputStats,
    compute_coo_buffer_size_per_device,
    compute_row_pointers_size_per_device,
    compute_theoretical_max_coo_buffer_size,
    eval_preprocess_sparse_dense_matmul_input_shape,
    get_all_reduce_interface,
    preprocess_sparse_dense_matmul_input,
    preprocess_sparse_dense_matmul_input_from_sparse_tensor,
)
from kernels.sharding_strategy import sharding_strategy_to_enum
from kernels.specs import LimitsCallable, Nested
from kernels.update import tpu_sparse_dense_matmul_grad
from kernels.variables import EmbeddingVariables, EmbeddingVariablesInitializer

__all__ = [
    "ArrayLike",
    "EmbeddingVariables",
    "EmbeddingVariablesInitializer",
    "LimitsCallable",
    "Nested",
    "PreprocessedInput",
    "SparseDenseMatmulInput",
    "SparseDenseMatmulInputStats",
    "auto_stack_tables",
    "compute_coo_buffer_size_per_device",
    "compute_row_pointers_size_per_device",
    "compute_theoretical_max_coo_buffer_size",
    "eval_preprocess_sparse_dense_matmul_input_shape",
    "get_all_reduce_interface",
    "get_default_limits",
    "get_stacked_table_specs",
    "get_table_specs",
    "init_embedding_variables",
    "prepare_feature_specs_for_training",
    "preprocess_sparse_dense_matmul_input",
    "preprocess_sparse_dense_matmul_input_from_sparse_tensor",
    "sharding_strategy_to_enum",
    "stack_embedding_gradients",
    "tpu_sparse_dense_matmul",
    "tpu_sparse_dense_matmul_grad",
    "unstack_embedding_activations",
    "update_preprocessing_parameters",
]

type ArrayLike = jax.Array | np.typing.ArrayLike
"""What can be made an array."""
