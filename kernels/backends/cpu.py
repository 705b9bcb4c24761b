"""The backend for CPUs: C++ kernels that XLA calls, on XLA's own threads.

On one device a stack is looked up straight from its table, and updated in one pass: the gradients
of a row are summed and the optimizer applied while the row is in the cache. On several devices each
asks every other for a block of rows, each row once:

    lookup   request rows → exchange → read rows → exchange back → sum per sample
    update   sum gradients per row → exchange → sum what devices say about one row, update

The exchange is JAX's (``all_to_all`` of whole blocks), the rest is C++. Minibatches are taken all
together, as a CPU has room for the rows of all of them.

What has no C++ formula of its own goes through plain JAX (`kernels.backends.xla`): the update of
custom optimizers, once their gradients are summed, and tables of a narrower type than float32.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kernels.backends import cpu_calls as calls
from kernels.backends.interface import StackInput, StackLayout
from kernels.backends.xla import XlaBackend, decoded, encoded, updated
from kernels.optimizers import (
    AdagradMomentumOptimizerSpec,
    AdagradOptimizerSpec,
    AdamOptimizerSpec,
    F2AOptimizerSpec,
    FTRLOptimizerSpec,
    LaPropOptimizerSpec,
    OptimizerSpec,
    RowWiseAdagradOptimizerSpec,
    SGDOptimizerSpec,
)
from kernels.preprocessing.minibatching import BUCKETS
from kernels.variables import EmbeddingVariables

__all__ = ["CpuBackend"]

_FORMULAS: dict[type[OptimizerSpec], int] = {
    SGDOptimizerSpec: 0,
    AdagradOptimizerSpec: 1,
    RowWiseAdagradOptimizerSpec: 2,
    AdagradMomentumOptimizerSpec: 3,
    AdamOptimizerSpec: 4,
    FTRLOptimizerSpec: 5,
    LaPropOptimizerSpec: 6,
    F2AOptimizerSpec: 7,
}
"""Numbers of the formulas in ``kernels/csrc/cpu/row_math.h``; a subclass may have another one."""


class CpuBackend:
    """Lookup and update of one stack in C++."""

    name = "cpu"

    def __init__(self) -> None:
        self._plain = XlaBackend()

    def lookup(self, layout: StackLayout, batch: StackInput, table: jax.Array) -> jax.Array:
        """See `Backend.lookup`."""
        if table.dtype != jnp.float32:
            return self._plain.lookup(layout, batch, table)
        config = layout.stack.quantization_config
        if layout.devices == 1 and config is None:
            return calls.look_up(layout, batch, table)
        rows = table.shape[0]
        requests = calls.request_rows(layout, batch, _capacity(layout, batch, rows), rows)
        found = calls.read_rows(_exchanged(layout, requests).reshape(-1), table)
        answers = encoded(found, config).reshape(*requests.shape, table.shape[1])
        answers = decoded(_exchanged(layout, answers), config)
        return calls.combine_answers(layout, batch, answers, rows)

    def update(
        self,
        layout: StackLayout,
        batch: StackInput,
        variables: EmbeddingVariables,
        gradients: jax.Array,
        hyperparameters: tuple[jax.Array, ...],
        bounds: tuple[float | None, float | None],
    ) -> EmbeddingVariables:
        """See `Backend.update`."""
        if any(array.dtype != jnp.float32 for array in (variables.table, *variables.slot)):
            return self._plain.update(layout, batch, variables, gradients, hyperparameters, bounds)
        formula = _FORMULAS.get(type(layout.stack.optimizer))
        if formula is None or any(jnp.size(value) != 1 for value in hyperparameters):
            rows, summed = self.table_gradients(layout, batch, gradients, variables.table)
            return updated(layout, variables, rows, summed, hyperparameters, bounds)
        numbers = _numbers(layout.stack.optimizer, hyperparameters, bounds)
        gradients = gradients.astype(jnp.float32)
        if layout.devices == 1:
            return calls.update_from_batch(layout, batch, gradients, numbers, variables, formula)
        rows, summed = self._received(layout, batch, gradients, variables.table.shape[0])
        return calls.update_from_rows(layout, rows, summed, numbers, variables, formula)

    def table_gradients(
        self, layout: StackLayout, batch: StackInput, gradients: jax.Array, table: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """See `Backend.table_gradients`."""
        device_rows = table.shape[0]
        rows, summed = self._received(layout, batch, gradients.astype(jnp.float32), device_rows)
        if layout.devices == 1:
            return rows, summed
        return calls.merge_rows(rows, summed, min(rows.shape[0], device_rows), device_rows)

    def _received(
        self, layout: StackLayout, batch: StackInput, gradients: jax.Array, device_rows: int
    ) -> tuple[jax.Array, jax.Array]:
        """What all devices say about this device's rows: ``[D * C]`` and ``[D * C, width]``."""
        capacity = _capacity(layout, batch, device_rows)
        rows, summed = calls.row_gradients(layout, batch, gradients, capacity, device_rows)
        rows, summed = _exchanged(layout, rows), _exchanged(layout, summed)
        return rows.reshape(-1), summed.reshape(-1, summed.shape[2])


def _capacity(layout: StackLayout, batch: StackInput, device_rows: int) -> int:
    """Places of a block: different rows that one device can ask of another."""
    n = layout.sparsecores_per_device
    partitions = n * n * (BUCKETS if layout.enable_minibatching else 1)
    unique = partitions * layout.stack.max_unique_ids_per_partition
    return min(unique, batch.embedding_ids.shape[0], device_rows)


def _exchanged(layout: StackLayout, blocks: jax.Array) -> jax.Array:
    """Blocks ``[D, C, ...]`` by the device they go to → by the device they come from."""
    if layout.devices == 1:
        return blocks
    return jax.lax.all_to_all(blocks, layout.axes, split_axis=0, concat_axis=0, tiled=True)


def _numbers(
    optimizer: OptimizerSpec,
    hyperparameters: tuple[jax.Array, ...],
    bounds: tuple[float | None, float | None],
) -> jax.Array:
    """What a formula takes besides rows: hyperparameters and switches, then the bounds."""
    values = list(hyperparameters)
    if isinstance(optimizer, FTRLOptimizerSpec):
        values.append(jnp.float32(optimizer.multiply_linear_by_learning_rate))
    low, high = bounds
    values += [-jnp.inf if low is None else low, jnp.inf if high is None else high]
    return jnp.stack([jnp.asarray(value, jnp.float32).reshape(()) for value in values])
