"""Table optimizers: one file each, with its description, its slots and its pure update."""

from kernels.optimizers.adagrad import AdagradOptimizerSpec, AdagradSlotVariables
from kernels.optimizers.base import Initializer, LearningRate, OptimizerSpec
from kernels.optimizers.row_wise_adagrad import (
    RowWiseAdagradOptimizerSpec,
    RowWiseAdagradSlotVariables,
)
from kernels.optimizers.sgd import SGDOptimizerSpec, SGDSlotVariables

__all__ = [
    "AdagradOptimizerSpec",
    "AdagradSlotVariables",
    "Initializer",
    "LearningRate",
    "OptimizerSpec",
    "RowWiseAdagradOptimizerSpec",
    "RowWiseAdagradSlotVariables",
    "SGDOptimizerSpec",
    "SGDSlotVariables",
]
