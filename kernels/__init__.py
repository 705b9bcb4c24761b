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
    from kernels.errors import EmberayError, LimitsExceeded, Overflow, SpecError
    from kernels.initialization import init_embedding_variables, initialize_tables
    from kernels.lookup import tpu_sparse_dense_matmul
    from kernels.optimizers import (
        AdagradOptimizerSpec,
        OptimizerSpec,
        RowWiseAdagradOptimizerSpec,
        SGDOptimizerSpec,
    )
    from kernels.planning import (
        EmbeddingPlan,
        Limits,
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
        PreprocessedInput,
        SparseDenseMatmulInput,
        SparseDenseMatmulInputStats,
        preprocess_sparse_dense_matmul_input,
    )
    from kernels.specs import (
        FeatureIdTransformation,
        FeatureSpec,
        QuantizationConfig,
        StackedTableSpec,
        TableSettingInStack,
        TableSpec,
    )
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
    "AdagradOptimizerSpec",
    "EmbeddingPlan",
    "EmbeddingVariables",
    "EmberayError",
    "FeatureIdTransformation",
    "FeatureSpec",
    "Limits",
    "LimitsExceeded",
    "OptimizerSpec",
    "Overflow",
    "PreprocessedInput",
    "QuantizationConfig",
    "RowWiseAdagradOptimizerSpec",
    "SGDOptimizerSpec",
    "SparseDenseMatmulInput",
    "SparseDenseMatmulInputStats",
    "SpecError",
    "StackedTableSpec",
    "TableSettingInStack",
    "TableSpec",
    "Topology",
    "apply_plan",
    "auto_stack_tables",
    "build_plan",
    "get_stacked_table_specs",
    "get_table_specs",
    "init_embedding_variables",
    "initialize_tables",
    "prepare_feature_specs_for_training",
    "preprocess_sparse_dense_matmul_input",
    "raise_limits",
    "stack_embedding_gradients",
    "stack_tables",
    "stack_tables_into",
    "theoretical_limits",
    "tpu_sparse_dense_matmul",
    "tpu_sparse_dense_matmul_grad",
    "unstack_embedding_activations",
    "unstack_tables",
    "unstack_variables",
]

_HOMES = {
    "kernels.activations": (
        "stack_embedding_gradients",
        "unstack_embedding_activations",
    ),
    "kernels.errors": (
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
        "AdagradOptimizerSpec",
        "OptimizerSpec",
        "RowWiseAdagradOptimizerSpec",
        "SGDOptimizerSpec",
    ),
    "kernels.planning": (
        "EmbeddingPlan",
        "Limits",
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
        "PreprocessedInput",
        "SparseDenseMatmulInput",
        "SparseDenseMatmulInputStats",
        "preprocess_sparse_dense_matmul_input",
    ),
    "kernels.specs": (
        "FeatureIdTransformation",
        "FeatureSpec",
        "QuantizationConfig",
        "StackedTableSpec",
        "TableSettingInStack",
        "TableSpec",
    ),
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
