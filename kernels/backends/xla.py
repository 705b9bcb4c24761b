"""The backend in plain JAX: it runs everywhere, and is the readable reference.

Every device works in four moves (`kernels.backends.exchange` does the first two):

    1. find the different rows of every partition            requests [D, C]
    2. exchange the requests
    3. lookup: read those rows, exchange them back, multiply by gains, add up per sample
       update: add up gradients per requested row, exchange them, add up what several SparseCores
               say about one row, and update each row once

With minibatches, all of that for one minibatch after another; a row is in one minibatch only. Only
rows of the batch are touched: nothing here is as large as a table, and in a donated step the tables
are changed in place. Sums are made in float32 whatever the type of the table. CPUs repeat results
bit by bit; GPUs do with ``XLA_FLAGS=--xla_gpu_deterministic_ops=true``, as they else add up in any
order.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from kernels.backends.buffers import minibatch, running_count
from kernels.backends.exchange import make_requests, send, send_back
from kernels.backends.interface import NO_ROW, StackInput, StackLayout
from kernels.preprocessing.format import row_pointers_per_sparsecore
from kernels.specs import QuantizationConfig
from kernels.variables import EmbeddingVariables, like_slots

__all__ = ["XlaBackend", "decoded", "encoded", "updated"]


@dataclass(frozen=True)
class XlaBackend:
    """Lookup and update in plain JAX."""

    ragged: bool = False
    """Whether devices exchange used places only, through ``ragged_all_to_all``."""
    name: str = "xla"

    def lookup(self, layout: StackLayout, batch: StackInput, table: jax.Array) -> jax.Array:
        """See `Backend.lookup`."""
        if not layout.enable_minibatching:
            return self._lookup(layout, batch, table)

        def add(number: jax.Array, so_far: jax.Array) -> jax.Array:
            return so_far + self._lookup(layout, minibatch(layout, batch, number), table)

        samples = layout.samples_per_sparsecore * layout.sparsecores_per_device
        nothing = jnp.zeros((samples, table.shape[1]), jnp.float32)
        return jax.lax.fori_loop(0, batch.num_minibatches[0], add, nothing)

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

        def step(part: StackInput, before: EmbeddingVariables) -> EmbeddingVariables:
            rows, summed = self._table_gradients(layout, part, gradients, before.table.shape[0])
            return updated(layout, before, rows, summed, hyperparameters, bounds)

        if not layout.enable_minibatching:
            return step(batch, variables)
        return jax.lax.fori_loop(
            0,
            batch.num_minibatches[0],
            lambda number, before: step(minibatch(layout, batch, number), before),
            variables,
        )

    def table_gradients(
        self, layout: StackLayout, batch: StackInput, gradients: jax.Array, table: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """See `Backend.table_gradients`."""
        if not layout.enable_minibatching:
            return self._table_gradients(layout, batch, gradients, table.shape[0])
        pointers = row_pointers_per_sparsecore(layout.sparsecores) * layout.sparsecores_per_device
        most = batch.row_pointers.shape[0] // pointers

        def part(number: jax.Array) -> tuple[jax.Array, jax.Array]:
            buffers = minibatch(layout, batch, number)
            return self._table_gradients(layout, buffers, gradients, table.shape[0])

        count = jax.eval_shape(part, jax.ShapeDtypeStruct((), jnp.int32))[0].shape[0]
        room = min(most * count, table.shape[0] + 1)

        def append(
            number: jax.Array, so_far: tuple[jax.Array, jax.Array, jax.Array]
        ) -> tuple[jax.Array, jax.Array, jax.Array]:
            rows, summed, used = so_far
            more, their = part(number)
            where = used + jnp.arange(count, dtype=jnp.int32)
            where = jnp.where(more == NO_ROW, room, where)
            return (
                rows.at[where].set(more, mode="drop"),
                summed.at[where].set(their, mode="drop"),
                used + jnp.sum(more != NO_ROW, dtype=jnp.int32),
            )

        nothing = (
            jnp.full((room,), NO_ROW, jnp.int32),
            jnp.zeros((room, gradients.shape[1]), jnp.float32),
            jnp.int32(0),
        )
        rows, summed, _ = jax.lax.fori_loop(0, batch.num_minibatches[0], append, nothing)
        order = jnp.argsort(rows)
        return rows[order], summed[order]

    def _lookup(self, layout: StackLayout, batch: StackInput, table: jax.Array) -> jax.Array:
        requests = make_requests(layout, batch, table.shape[0])
        config = layout.stack.quantization_config
        if layout.devices == 1:
            rows = encoded(_read(table, requests.row), config)
        else:
            blocks = send(layout, requests, requests.rows, NO_ROW, ragged=self.ragged)
            found = encoded(_read(table, blocks), config)
            answers = send_back(layout, requests, found, 0, ragged=self.ragged)
            answers = answers.reshape(-1, table.shape[1])
            rows = jnp.take(answers, requests.slot, axis=0, mode="fill", fill_value=0)
        rows = decoded(rows, config) * requests.gains[:, None]
        samples = layout.samples_per_sparsecore * layout.sparsecores_per_device
        nothing = jnp.zeros((samples, table.shape[1]), jnp.float32)
        return nothing.at[requests.sample].add(rows, mode="drop")

    def _table_gradients(
        self, layout: StackLayout, batch: StackInput, gradients: jax.Array, device_rows: int
    ) -> tuple[jax.Array, jax.Array]:
        requests = make_requests(layout, batch, device_rows)
        width = gradients.shape[1]
        per_entry = jnp.take(gradients, requests.sample, axis=0, mode="fill", fill_value=0)
        per_entry = per_entry.astype(jnp.float32) * requests.gains[:, None]
        per_row = (
            jnp.zeros((requests.rows.size, width), jnp.float32)
            .at[requests.slot]
            .add(per_entry, mode="drop")
        ).reshape(*requests.rows.shape, width)
        rows = send(layout, requests, requests.rows, NO_ROW, ragged=self.ragged).reshape(-1)
        received = send(layout, requests, per_row, 0, ragged=self.ragged).reshape(-1, width)
        # Rows of one partition ascend, but for those of a minibatch.
        if layout.sparsecores > 1 or layout.enable_minibatching:
            return _merged(rows, received, device_rows)
        return rows, received


def _read(table: jax.Array, rows: jax.Array) -> jax.Array:
    return jnp.take(table, rows, axis=0, mode="fill", fill_value=0)


def encoded(rows: jax.Array, config: QuantizationConfig | None) -> jax.Array:
    """Rows as they travel; quantized ones as bucket numbers, in as few bits as these need."""
    if config is None:
        return rows
    low, high, buckets = config.as_tuple()
    number = (jnp.clip(rows.astype(jnp.float32), low, high) - low) / _bucket_width(config)
    kind = jnp.uint8 if buckets <= 2**8 else jnp.uint16 if buckets <= 2**16 else jnp.uint32
    return jnp.floor(number + 0.5).astype(kind)


def decoded(rows: jax.Array, config: QuantizationConfig | None) -> jax.Array:
    """The inverse of `encoded`, but for the rounding: float32."""
    if config is None:
        return rows.astype(jnp.float32)
    return rows.astype(jnp.float32) * _bucket_width(config) + config.min_value


def _bucket_width(config: QuantizationConfig) -> float:
    return (config.max_value - config.min_value) / (config.num_buckets - 1)


def _merged(rows: jax.Array, gradients: jax.Array, device_rows: int) -> tuple[jax.Array, jax.Array]:
    """Each row once, ascending, with the sum of its gradients; `NO_ROW` fills the rest.

    The sort is stable and sums run in its order, so results repeat bit by bit.
    """
    count = rows.shape[0]
    positions = jnp.arange(count, dtype=jnp.int32)
    ordered, order = jax.lax.sort((rows, positions), num_keys=1, is_stable=True)
    is_first = jnp.pad(ordered[1:] != ordered[:-1], (1, 0), constant_values=True)
    group = running_count(is_first) - 1
    groups = min(count, device_rows + 1)
    unique = (
        jnp.full((groups,), NO_ROW, jnp.int32)
        .at[jnp.where(is_first, group, groups)]
        .set(ordered, mode="drop", unique_indices=True)
    )
    place = jnp.zeros((count,), jnp.int32).at[order].set(group, unique_indices=True)
    summed = (
        jnp.zeros((groups, gradients.shape[1]), gradients.dtype)
        .at[place]
        .add(gradients, mode="drop")
    )
    return unique, summed


def updated(
    layout: StackLayout,
    variables: EmbeddingVariables,
    rows: jax.Array,
    gradients: jax.Array,
    hyperparameters: tuple[jax.Array, ...],
    bounds: tuple[float | None, float | None],
) -> EmbeddingVariables:
    """One optimizer step for ``rows``, ascending and each once, `NO_ROW` at the end."""
    stack = layout.stack

    def read(variable: jax.Array) -> jax.Array:
        return _read(variable, rows).astype(jnp.float32)

    table, slots = stack.optimizer.update(
        gradients,
        read(variables.table),
        tuple(read(slot) for slot in variables.slot),
        hyperparameters,
        embedding_dim=stack.unpadded_embedding_dim or stack.stack_embedding_dim,
    )
    low, high = bounds
    if low is not None or high is not None:
        table = jnp.clip(table, low, high)

    def write(old: jax.Array, new: jax.Array) -> jax.Array:
        return old.at[rows].set(
            new.astype(old.dtype), mode="drop", unique_indices=True, indices_are_sorted=True
        )

    written = [write(old, new) for old, new in zip(variables.slot, slots, strict=True)]
    return EmbeddingVariables(write(variables.table, table), like_slots(variables.slot, written))
