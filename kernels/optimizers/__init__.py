"""Table optimizers: one file each, with its description, its slots and its pure update."""

from kernels.optimizers.adagrad import AdagradOptimizerSpec, AdagradSlotVariables
from kernels.optimizers.adagrad_momentum import (
    AdagradMomentumOptimizerSpec,
    AdagradMomentumSlotVariables,
)
from kernels.optimizers.adam import AdamOptimizerSpec, AdamSlotVariables
from kernels.optimizers.base import HyperParameter, Initializer, LearningRate, OptimizerSpec
from kernels.optimizers.custom import CustomOptimizerSpec
from kernels.optimizers.description import optimizer_from_description
from kernels.optimizers.f2a import F2AOptimizerSpec, F2ASlotVariables
from kernels.optimizers.ftrl import FTRLOptimizerSpec, FTRLSlotVariables
from kernels.optimizers.laprop import LaPropOptimizerSpec, LaPropSlotVariables
from kernels.optimizers.row_wise_adagrad import (
    RowWiseAdagradOptimizerSpec,
    RowWiseAdagradSlotVariables,
)
from kernels.optimizers.sgd import SGDOptimizerSpec, SGDSlotVariables

__all__ = [
    "AdagradMomentumOptimizerSpec",
    "AdagradMomentumSlotVariables",
    "AdagradOptimizerSpec",
    "AdagradSlotVariables",
    "AdamOptimizerSpec",
    "AdamSlotVariables",
    "CustomOptimizerSpec",
    "F2AOptimizerSpec",
    "F2ASlotVariables",
    "FTRLOptimizerSpec",
    "FTRLSlotVariables",
    "HyperParameter",
    "Initializer",
    "LaPropOptimizerSpec",
    "LaPropSlotVariables",
    "LearningRate",
    "OptimizerSpec",
    "RowWiseAdagradOptimizerSpec",
    "RowWiseAdagradSlotVariables",
    "SGDOptimizerSpec",
    "SGDSlotVariables",
    "optimizer_from_description",
]
