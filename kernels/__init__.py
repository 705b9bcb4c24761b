"""kernels: embedding tables larger than one accelerator, in JAX.

    specs ──build_plan──► plan ──apply_plan──► placed specs
    ids ──preprocess_sparse_dense_matmul_input──► batch
    batch × tables ──tpu_sparse_dense_matmul──► activations
    gradients ──tpu_sparse_dense_matmul_grad──► tables, one step on

Part of the distribution `emberay`. Names are loaded when first used, as they bring JAX with them;
none of them starts a JAX backend.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kernels.activations import stack_embedding_gradients, unstack_embedding_activations
    from kernels.autograd import (
        differentiable_lookup,
        gradient_probes,
        probed_lookup,
        touched_rows,
        updating_lookup,
    )
    from kernels.backends import NO_ROW
    from kernels.errors import AllReduceError, EmberayError, LimitsExceeded, Overflow, SpecError
    from kernels.initialization import init_embedding_variables, initialize_tables
    from kernels.lookup import tpu_sparse_dense_matmul
    from kernels.optimizers import (
        AdagradMomentumOptimizerSpec,
        AdagradOptimizerSpec,
        AdamOptimizerSpec,
        CustomOptimizerSpec,
        F2AOptimizerSpec,
        FTRLOptimizerSpec,
        LaPropOptimizerSpec,
        OptimizerSpec,
        RowWiseAdagradOptimizerSpec,
        SGDOptimizerSpec,
    )
    from kernels.planning import (
        EmbeddingPlan,
        Limits,
        StackPlan,
        TablePlacement,
        Topology,
        apply_plan,
        auto_stack_tables,
        build_plan,
        get_stacked_table_specs,
        get_table_specs,
        prepare_feature_specs_for_training,
        raise_limits,
        stack_tables,
        theoretical_limits,
    )
    from kernels.preprocessing import (
        AllReduceInterface,
        PreprocessedInput,
        SparseDenseMatmulInput,
        SparseDenseMatmulInputStats,
        TcpAllReduce,
        compute_coo_buffer_size_per_device,
        compute_row_pointers_size_per_device,
        compute_theoretical_max_coo_buffer_size,
        eval_preprocess_sparse_dense_matmul_input_shape,
        get_all_reduce_interface,
        preprocess_sparse_dense_matmul_input,
        preprocess_sparse_dense_matmul_input_from_sparse_tensor,
    )
    from kernels.ragged import Ragged
    from kernels.sequence import (
        FlatSequences,
        flatten_sequences,
        sequence_feature_spec,
        unflatten_sequences,
    )
    from kernels.specs import (
        FeatureIdTransformation,
        FeatureSpec,
        QuantizationConfig,
        StackedTableSpec,
        TableSettingInStack,
        TableSpec,
    )
    from kernels.table_gradients import TableGradients
    from kernels.update import tpu_sparse_dense_matmul_grad
    from kernels.variables import (
        EmbeddingVariables,
        stack_tables_into,
        unstack_tables,
        unstack_variables,
    )

DISTRIBUTION = "emberay"
"""Name of the distribution this package is part of; another one has a package of this name too."""

__all__ = [
    "DISTRIBUTION",
    "NO_ROW",
    "AdagradMomentumOptimizerSpec",
    "AdagradOptimizerSpec",
    "AdamOptimizerSpec",
    "AllReduceError",
    "AllReduceInterface",
    "CustomOptimizerSpec",
    "EmbeddingPlan",
    "EmbeddingVariables",
    "EmberayError",
    "F2AOptimizerSpec",
    "FTRLOptimizerSpec",
    "FeatureIdTransformation",
    "FeatureSpec",
    "FlatSequences",
    "LaPropOptimizerSpec",
    "Limits",
    "LimitsExceeded",
    "OptimizerSpec",
    "Overflow",
    "PreprocessedInput",
    "QuantizationConfig",
    "Ragged",
    "RowWiseAdagradOptimizerSpec",
    "SGDOptimizerSpec",
    "SparseDenseMatmulInput",
    "SparseDenseMatmulInputStats",
    "SpecError",
    "StackPlan",
    "StackedTableSpec",
    "TableGradients",
    "TablePlacement",
    "TableSettingInStack",
    "TableSpec",
    "TcpAllReduce",
    "Topology",
    "apply_plan",
    "auto_stack_tables",
    "build_plan",
    "compute_coo_buffer_size_per_device",
    "compute_row_pointers_size_per_device",
    "compute_theoretical_max_coo_buffer_size",
    "differentiable_lookup",
    "eval_preprocess_sparse_dense_matmul_input_shape",
    "flatten_sequences",
    "get_all_reduce_interface",
    "get_stacked_table_specs",
    "get_table_specs",
    "gradient_probes",
    "init_embedding_variables",
    "initialize_tables",
    "prepare_feature_specs_for_training",
    "preprocess_sparse_dense_matmul_input",
    "preprocess_sparse_dense_matmul_input_from_sparse_tensor",
    "probed_lookup",
    "raise_limits",
    "sequence_feature_spec",
    "stack_embedding_gradients",
    "stack_tables",
    "stack_tables_into",
    "theoretical_limits",
    "touched_rows",
    "tpu_sparse_dense_matmul",
    "tpu_sparse_dense_matmul_grad",
    "unflatten_sequences",
    "unstack_embedding_activations",
    "unstack_tables",
    "unstack_variables",
    "updating_lookup",
]

_HOMES = {
    "kernels.activations": (
        "stack_embedding_gradients",
        "unstack_embedding_activations",
    ),
    "kernels.autograd": (
        "differentiable_lookup",
        "gradient_probes",
        "probed_lookup",
        "touched_rows",
        "updating_lookup",
    ),
    "kernels.backends": ("NO_ROW",),
    "kernels.errors": (
        "AllReduceError",
        "EmberayError",
        "LimitsExceeded",
        "Overflow",
        "SpecError",
    ),
    "kernels.initialization": (
        "init_embedding_variables",
        "initialize_tables",
    ),
    "kernels.lookup": ("tpu_sparse_dense_matmul",),
    "kernels.optimizers": (
        "AdagradMomentumOptimizerSpec",
        "AdagradOptimizerSpec",
        "AdamOptimizerSpec",
        "CustomOptimizerSpec",
        "F2AOptimizerSpec",
        "FTRLOptimizerSpec",
        "LaPropOptimizerSpec",
        "OptimizerSpec",
        "RowWiseAdagradOptimizerSpec",
        "SGDOptimizerSpec",
    ),
    "kernels.planning": (
        "EmbeddingPlan",
        "Limits",
        "StackPlan",
        "TablePlacement",
        "Topology",
        "apply_plan",
        "auto_stack_tables",
        "build_plan",
        "get_stacked_table_specs",
        "get_table_specs",
        "prepare_feature_specs_for_training",
        "raise_limits",
        "stack_tables",
        "theoretical_limits",
    ),
    "kernels.preprocessing": (
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
    ),
    "kernels.ragged": ("Ragged",),
    "kernels.sequence": (
        "FlatSequences",
        "flatten_sequences",
        "sequence_feature_spec",
        "unflatten_sequences",
    ),
    "kernels.specs": (
        "FeatureIdTransformation",
        "FeatureSpec",
        "QuantizationConfig",
        "StackedTableSpec",
        "TableSettingInStack",
        "TableSpec",
    ),
    "kernels.table_gradients": ("TableGradients",),
    "kernels.update": ("tpu_sparse_dense_matmul_grad",),
    "kernels.variables": (
        "EmbeddingVariables",
        "stack_tables_into",
        "unstack_tables",
        "unstack_variables",
    ),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'kernels' has no attribute '{name}'")
