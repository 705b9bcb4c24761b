"""What every table optimizer is: a description, its slots, and one pure function.

The function works on rows: the rows of the batch, each once, with its summed gradient. All
backends call (or compile) this one function, so an optimizer has one meaning.
"""

from __future__ import annotations

import abc
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from kernels.callable_placeholder import CallablePlaceholder
from kernels.errors import SpecError

__all__ = ["HyperParameter", "Initializer", "LearningRate", "OptimizerSpec", "divide_or_zero"]

type Initializer = Callable[..., Any]
"""``initializer(key, shape)`` or ``initializer(key, shape, dtype)`` → array."""

type HyperParameter = jax.typing.ArrayLike | Callable[..., jax.typing.ArrayLike]
"""A number, a (traced) scalar, or a function of nothing or of the step."""

type LearningRate = HyperParameter
"""As every hyperparameter."""


class OptimizerSpec(abc.ABC):
    """Describes how the rows of a table are updated.

    Specs are compared and hashed by kind and hyperparameters, which decides what may be stacked.
    A function is compared by identity.

    Every hyperparameter but the slots' initial values may be a number, an array, a value that is
    being traced, or a function ``f()`` or ``f(step)`` that returns one of these.

    Attributes:
        learning_rate: A number, an array, or a function ``f()`` or ``f(step)`` that returns one.
    """

    learning_rate: LearningRate

    def __init__(self, learning_rate: LearningRate) -> None:
        self.learning_rate = learning_rate

    @abc.abstractmethod
    def short_name(self) -> str:
        """A short name, used to label computations and files."""

    @abc.abstractmethod
    def update(
        self,
        gradient: jax.Array,
        table: jax.Array,
        slots: tuple[jax.Array, ...],
        hyperparameters: tuple[jax.Array, ...],
        *,
        embedding_dim: int,
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """The new rows and slot rows: a pure function, the same for every backend.

        Args:
            gradient: ``[rows, width]`` float32, summed over the batch; 0 in padding columns.
            table: ``[rows, width]`` float32, the rows before the update.
            slots: One ``[rows, slot width]`` float32 array per slot variable.
            hyperparameters: What `get_hyperparameters` returned: scalars, or anything that can be
                broadcast to the rows.
            embedding_dim: Columns in use; ``width`` less the padding.

        Returns:
            ``(table, slots)`` of the same shapes.
        """

    def parameters(self) -> dict[str, Any]:
        """Every hyperparameter by name, the learning rate first."""
        return self._named("learning_rate")

    def _named(self, *names: str) -> dict[str, Any]:
        """These hyperparameters by name, as they were given."""
        return {name: getattr(self, name) for name in names}

    def get_learning_rate(self, step: jax.Array | int | None = None) -> jax.Array:
        """The learning rate at ``step``, a float32 scalar.

        Raises:
            SpecError: If the learning rate is a function of the step and no step is given, or
                takes more arguments than that.
        """
        return self._value("learning_rate", step)

    def _value(self, name: str, step: jax.Array | int | None) -> jax.Array:
        """A hyperparameter at ``step``, a float32 scalar."""
        value = getattr(self, name)
        if not callable(value):
            return jnp.asarray(value, dtype=jnp.float32)
        wanted = _positional_arguments(value)
        if wanted == 0:
            return jnp.asarray(value(), dtype=jnp.float32)
        if wanted > 1:
            raise SpecError(
                f"{self.short_name()}: the function {value!r} given as {name} takes {wanted} "
                "arguments; it must take none, or the step"
            )
        if step is None:
            raise SpecError(
                f"{self.short_name()}: the function {value!r} given as {name} needs the step; pass "
                "step=... to tpu_sparse_dense_matmul_grad"
            )
        return jnp.asarray(value(step), dtype=jnp.float32)

    def _values(self, step: jax.Array | int | None, *names: str) -> tuple[jax.Array, ...]:
        """The learning rate and these hyperparameters at ``step``, float32 scalars."""
        return (self.get_learning_rate(step), *(self._value(name, step) for name in names))

    def get_hyperparameters(self, step: jax.Array | int | None = None) -> tuple[jax.Array, ...]:
        """The values `update` takes at ``step``: float32 scalars, the learning rate first."""
        return self._values(step)

    def slot_variables_initializers(self) -> tuple[Initializer, ...]:
        """One initializer per slot variable, as a (named) tuple."""
        return ()

    def slot_variables_count(self) -> int:
        """Number of slot variables."""
        return len(self.slot_variables_initializers())

    def slot_variables_widths(self, width: int) -> tuple[int, ...]:
        """Columns of every slot variable of a table that has ``width`` columns."""
        return (width,) * self.slot_variables_count()

    @property
    def mixes_columns(self) -> bool:
        """Whether a column's update depends on other columns of the row.

        If so, only tables of equal ``embedding_dim`` may be stacked.
        """
        return False

    def get_float_params(self) -> dict[str, float]:
        """The hyperparameters that are numbers, by name, without the learning rate.

        Raises:
            TypeError: If one of them is a function.
        """
        return {
            name: float(value)
            for name, value in self.parameters().items()
            if name != "learning_rate" and not isinstance(value, bool)
        }

    def get_bool_params(self) -> dict[str, bool]:
        """The hyperparameters that are switches, by name."""
        return {name: value for name, value in self.parameters().items() if isinstance(value, bool)}

    @classmethod
    def from_float_and_bool_params(
        cls,
        float_params: dict[str, float],
        bool_params: dict[str, bool],
        learning_rate: LearningRate,
    ) -> OptimizerSpec:
        """The spec again from what `get_float_params` and `get_bool_params` returned.

        Names that this kind of optimizer does not have are left aside.

        Example:
            >>> spec = AdamOptimizerSpec(0.1, beta_1=0.8)
            >>> numbers, switches = spec.get_float_params(), spec.get_bool_params()
            >>> AdamOptimizerSpec.from_float_and_bool_params(numbers, switches, 0.1) == spec
            True
        """
        known = inspect.signature(cls).parameters
        given = {name: float(value) for name, value in float_params.items()}
        given |= {name: bool(value) for name, value in bool_params.items()}
        return cls(learning_rate, **{name: given[name] for name in known if name in given})

    def describe(self) -> dict[str, Any]:
        """Kind and hyperparameters as JSON values, the same in every process.

        A function is described by its module and qualified name, an array that is being traced by
        ``"traced"``.
        """
        return {"name": self.short_name()} | {
            name: _describe(value) for name, value in self.parameters().items()
        }

    def _identity(self) -> tuple[Any, ...]:
        values = tuple((name, _comparable(value)) for name, value in self.parameters().items())
        return (type(self), *values)

    def __hash__(self) -> int:
        return hash(self._identity())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OptimizerSpec) and self._identity() == other._identity()

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in self.parameters().items())
        return f"{type(self).__name__}({values})"


def divide_or_zero(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """``numerator / denominator``, and 0 where the numerator is 0, whatever the denominator.

    So that 0 / 0 puts no NaN into padding columns, or into rows whose gradient is 0.
    """
    return jnp.where(numerator == 0, 0.0, numerator / denominator)


def _positional_arguments(function: Callable[..., Any]) -> int:
    """How many arguments a call must give, or could give when none are required but one fits."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # built-ins without a signature
        return 1
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p for p in positional if p.default is p.empty]
    if required:
        return len(required)
    return min(1, len(positional)) or int(any(p.kind is p.VAR_POSITIONAL for p in parameters))


def _comparable(value: Any) -> Any:
    """A stand-in for ``value`` that can be hashed and compared."""
    if isinstance(value, np.ndarray):
        return (value.shape, value.tobytes())
    try:
        hash(value)
    except TypeError:
        return id(value)
    return value


def _describe(value: Any) -> Any:
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    if isinstance(value, Tracer):
        return "traced"
    if isinstance(value, CallablePlaceholder):
        return value.tag
    if callable(value):
        kind = value if hasattr(value, "__qualname__") else type(value)
        return f"function {kind.__module__}.{kind.__qualname__}"
    if isinstance(value, tuple):
        return [_describe(item) for item in value]
    return np.asarray(value).tolist()
