"""The names of ``nn.embedding_spec`` of jax-tpu-embedding, gathered from where they live."""

from __future__ import annotations

import jax

from kernels.callable_placeholder import CallablePlaceholder
from kernels.optimizers import (
    AdagradMomentumOptimizerSpec,
    AdagradMomentumSlotVariables,
    AdagradOptimizerSpec,
    AdagradSlotVariables,
    AdamOptimizerSpec,
    AdamSlotVariables,
    CustomOptimizerSpec,
    F2AOptimizerSpec,
    F2ASlotVariables,
    FTRLOptimizerSpec,
    FTRLSlotVariables,
    HyperParameter,
    Initializer,
    LaPropOptimizerSpec,
    LaPropSlotVariables,
    LearningRate,
    OptimizerSpec,
    SGDOptimizerSpec,
    SGDSlotVariables,
)
from kernels.specs import (
    DEFAULT_ACTIVATION_MEM_BYTES_LIMIT,
    FeatureIdTransformation,
    FeatureSpec,
    QuantizationConfig,
    StackedTableSpec,
    TableSettingInStack,
    TableSpec,
)

__all__ = [
    "DEFAULT_ACTIVATION_MEM_BYTES_LIMIT",
    "AdagradMomentumOptimizerSpec",
    "AdagradMomentumSlotVariables",
    "AdagradOptimizerSpec",
    "AdagradSlotVariables",
    "AdamOptimizerSpec",
    "AdamSlotVariables",
    "CallablePlaceholder",
    "CallableTableInitializer",
    "CustomOptimizerSpec",
    "F2AOptimizerSpec",
    "F2ASlotVariables",
    "FTRLOptimizerSpec",
    "FTRLSlotVariables",
    "FeatureIdTransformation",
    "FeatureSpec",
    "HyperParameterType",
    "LaPropOptimizerSpec",
    "LaPropSlotVariables",
    "LearningRate",
    "NumericParameter",
    "OptimizerSpec",
    "QuantizationConfig",
    "SGDOptimizerSpec",
    "SGDSlotVariables",
    "StackedTableSpec",
    "TableSettingInStack",
    "TableSpec",
]

NumericParameter = jax.typing.ArrayLike
"""A number, or an array of no dimensions."""

CallableTableInitializer = Initializer
HyperParameterType = HyperParameter
