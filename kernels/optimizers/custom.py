"""An optimizer given as a function."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from kernels.errors import SpecError
from kernels.optimizers import stablehlo as hlo
from kernels.optimizers.base import Initializer, LearningRate, OptimizerSpec

__all__ = ["CustomOptimizerSpec"]


class CustomOptimizerSpec(OptimizerSpec):
    """An update of your own: a function of one row and its slots.

    The function is called as ``f(gradient, table, *slots, learning_rate)``. Every argument is one
    row, ``[1, width]`` float32, the learning rate in every column, so the same function runs on a
    SparseCore. It returns the new row, or a tuple of the new row and the new slots. Columns beyond
    a table's ``embedding_dim`` are padding, where the gradient is 0.

    Attributes:
        learning_rate: A number, or a function of the step.
        custom_computation_fn: The function. Not needed when ``stablehlo`` is given.
        stablehlo: The same as the text of a StableHLO module, see `lower_to_stablehlo`. On
            platforms other than TPU its rows are updated one after another, which is slow.
        slot_variable_initializers_tuple: First values of the slots: ``initializer(key, shape)``
            each. Every slot is as wide as the table. A named tuple gives the slots names.
        short_name_str: Labels computations and files.

    Example:
        >>> def sign_descent(gradient, table, learning_rate):
        ...     return table - learning_rate * jnp.sign(gradient)
        >>> CustomOptimizerSpec(0.01, sign_descent)
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        custom_computation_fn: Callable[..., Any] | None = None,
        stablehlo: str | bytes | Any | None = None,
        slot_variable_initializers_tuple: tuple[Initializer, ...] = (),
        short_name_str: str = "custom",
    ) -> None:
        super().__init__(learning_rate)
        self.custom_computation_fn = custom_computation_fn
        self.stablehlo = stablehlo
        self.slot_variable_initializers_tuple = slot_variable_initializers_tuple
        self.short_name_str = short_name_str

    def short_name(self) -> str:
        """The name given."""
        return self.short_name_str

    def parameters(self) -> dict[str, Any]:
        """See `OptimizerSpec.parameters`."""
        return super().parameters() | self._named(
            "custom_computation_fn",
            "stablehlo",
            "slot_variable_initializers_tuple",
            "short_name_str",
        )

    def get_float_params(self) -> dict[str, float]:
        """None."""
        return {}

    def describe(self) -> dict[str, Any]:
        """See `OptimizerSpec.describe`; StableHLO is described by its SHA-256."""
        text = "" if self.stablehlo is None else hlo.stablehlo_text(self.stablehlo)
        digest = hashlib.sha256(text.encode()).hexdigest() if text else None
        return super().describe() | {"name": "custom", "stablehlo": digest}

    def slot_variables_initializers(self) -> tuple[Initializer, ...]:
        """The initializers given."""
        return self.slot_variable_initializers_tuple

    def update(
        self,
        gradient: jax.Array,
        table: jax.Array,
        slots: tuple[jax.Array, ...],
        hyperparameters: tuple[jax.Array, ...],
        *,
        embedding_dim: int,
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """See `OptimizerSpec.update`.

        Raises:
            SpecError: If there is neither function nor StableHLO, or the function does not return
                a row and as many slots as there are.
        """
        numbers = [jnp.broadcast_to(value, table.shape) for value in hyperparameters]
        rows = (gradient, table, *slots, *numbers)
        if self.stablehlo is not None:
            text = hlo.stablehlo_text(self.stablehlo)
            run = functools.partial(hlo.call_stablehlo, text, results=1 + len(slots))
            new = jax.lax.map(run, tuple(array[:, None] for array in rows))
            new = [array[:, 0] for array in new]
        elif self.custom_computation_fn is not None:
            # A SparseCore takes the function as it is, on the one row it has.
            new = self._row(*rows) if table.shape[0] == 1 else self._row_by_row(*rows)
        else:
            raise SpecError(
                "Either stablehlo or custom_computation_fn must be provided for "
                f"CustomOptimizerSpec '{self.short_name_str}'; give the function of one row"
            )
        return new[0], tuple(new[1:])

    def _row_by_row(self, *rows: jax.Array) -> tuple[jax.Array, ...]:
        """The function on every row by itself."""

        def one(*vectors: jax.Array) -> tuple[jax.Array, ...]:
            return tuple(array[0] for array in self._row(*(vector[None] for vector in vectors)))

        return jax.vmap(one)(*rows)

    def _row(self, *rows: jax.Array) -> tuple[jax.Array, ...]:
        """The function on one row, ``[1, width]`` each, and its result checked."""
        assert self.custom_computation_fn is not None
        result = self.custom_computation_fn(*rows)
        out = tuple(result) if isinstance(result, list | tuple) else (result,)
        slots = self.slot_variables_count()
        if len(out) != 1 + slots:
            raise SpecError(
                f"optimizer '{self.short_name_str}': the function returned {len(out)} arrays; "
                f"return the row and its {slots} slots"
            )
        shapes = [jnp.shape(array) for array in out]
        if any(shape != rows[1].shape for shape in shapes):
            raise SpecError(
                f"optimizer '{self.short_name_str}': the function returned arrays of shapes "
                f"{shapes}; return rows of shape {rows[1].shape}"
            )
        return tuple(jnp.asarray(array, jnp.float32) for array in out)

    @classmethod
    def lower_to_stablehlo(
        cls,
        custom_computation_fn: Callable[..., Any],
        embedding_dim: int = 1,
        num_slot_variables: int = 0,
        num_hyperparameters: int = 1,
        min_value: float | None = None,
        max_value: float | None = None,
    ) -> str:
        """See `kernels.optimizers.stablehlo.lower_to_stablehlo`."""
        return hlo.lower_to_stablehlo(
            custom_computation_fn,
            embedding_dim,
            num_slot_variables,
            num_hyperparameters,
            min_value,
            max_value,
        )

    @classmethod
    def wrap_stablehlo_with_limits(
        cls,
        stablehlo: str | bytes,
        embedding_dim: int,
        num_slot_variables: int,
        num_hyperparameters: int,
        min_value: float | None = None,
        max_value: float | None = None,
    ) -> str:
        """See `kernels.optimizers.stablehlo.wrap_stablehlo_with_limits`."""
        return hlo.wrap_stablehlo_with_limits(
            stablehlo,
            embedding_dim,
            num_slot_variables,
            num_hyperparameters,
            min_value,
            max_value,
        )
