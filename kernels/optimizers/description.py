"""From an optimizer's JSON description back to a spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kernels.callable_placeholder import CallablePlaceholder
from kernels.errors import SpecError
from kernels.optimizers.adagrad import AdagradOptimizerSpec
from kernels.optimizers.adagrad_momentum import AdagradMomentumOptimizerSpec
from kernels.optimizers.adam import AdamOptimizerSpec
from kernels.optimizers.base import OptimizerSpec
from kernels.optimizers.f2a import F2AOptimizerSpec
from kernels.optimizers.ftrl import FTRLOptimizerSpec
from kernels.optimizers.laprop import LaPropOptimizerSpec
from kernels.optimizers.row_wise_adagrad import RowWiseAdagradOptimizerSpec
from kernels.optimizers.sgd import SGDOptimizerSpec

__all__ = ["optimizer_from_description"]

_KINDS: dict[str, type[OptimizerSpec]] = {
    "adagrad": AdagradOptimizerSpec,
    "adagrad_momentum": AdagradMomentumOptimizerSpec,
    "adam": AdamOptimizerSpec,
    "f2a": F2AOptimizerSpec,
    "ftrl": FTRLOptimizerSpec,
    "laprop": LaPropOptimizerSpec,
    "row_wise_adagrad": RowWiseAdagradOptimizerSpec,
    "sgd": SGDOptimizerSpec,
}


def optimizer_from_description(description: Mapping[str, Any]) -> OptimizerSpec:
    """The spec that `OptimizerSpec.describe` described.

    A function is known by its name only: a `CallablePlaceholder` takes its place, so the spec can
    be compared and stacked, and describes itself as before, but cannot train with it.

    Args:
        description: What ``describe()`` returned, or the same through JSON.

    Raises:
        SpecError: If the kind is none of this package's, as with a custom optimizer.

    Example:
        >>> optimizer_from_description(AdagradOptimizerSpec(0.1).describe())
        AdagradOptimizerSpec(learning_rate=0.1, initial_accumulator_value=0.1)
    """
    values = dict(description)
    name = values.pop("name", None)
    if name not in _KINDS:
        raise SpecError(
            f"optimizer '{name}' cannot be made from its description {dict(description)}; known "
            f"are {', '.join(_KINDS)}; give the specs themselves"
        )
    try:
        return _KINDS[name](**{key: _value(value) for key, value in values.items()})
    except TypeError as error:
        raise SpecError(
            f"the description {dict(description)} is not one of optimizer '{name}' ({error}); pass "
            "what describe() returned with this version"
        ) from error


def _value(value: Any) -> Any:
    return CallablePlaceholder(value) if isinstance(value, str) else value
