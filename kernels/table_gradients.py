"""Gradients of tables: the rows of a batch, in the numbering of their own table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kernels.backends import NO_ROW, StackLayout
from kernels.specs import TableSpec

__all__ = ["TableGradients", "rows_on_device", "unstack_table_gradients"]


class TableGradients(NamedTuple):
    """The gradient of a table, which is 0 but for some rows.

    Every row is named once, by the device that holds it: `jax.shard_map` with the layout of the
    tables puts the devices' shares one after another.

    Example:
        >>> dense = jnp.zeros((vocabulary_size, embedding_dim))
        >>> dense = dense.at[gradients.rows].add(gradients.values, mode="drop")
    """

    rows: Any
    """``[R]`` int32: rows of the table, ascending on a device; `kernels.NO_ROW` (2^31 - 1) in
    unused places, at the end. R is fixed by the limits of the stack, not by the batch."""
    values: Any
    """``[R, embedding_dim]`` float32: the gradient of each; 0 in unused places."""


def unstack_table_gradients(
    layout: StackLayout,
    tables: Mapping[str, TableSpec],
    rows: jax.Array,
    gradients: jax.Array,
    device_rows: int,
) -> dict[str, TableGradients]:
    """One device's gradients of a stack, by table.

    Args:
        layout: The stack.
        tables: Tables of the stack, by name.
        rows: ``[R]`` int32: rows of the device, `NO_ROW` in unused places.
        gradients: ``[R, width]``.
        device_rows: Rows of the stack on a device.
    """
    s, per_device = layout.sparsecores, layout.sparsecores_per_device
    rows_per_core = device_rows // per_device
    device = jax.lax.axis_index(layout.axes) if layout.axes else 0
    core = device * per_device + rows // rows_per_core
    local = rows % rows_per_core
    result: dict[str, TableGradients] = {}
    for name, table in tables.items():
        place = table.setting_in_stack
        per_core = place.padded_vocab_size // s
        inside = local - place.row_offset_in_shard
        mine = (rows != NO_ROW) & (inside >= 0) & (inside < per_core)
        number = jnp.where(mine, inside * s + (core - place.shard_rotation) % s, NO_ROW)
        room = min(rows.shape[0], per_core * per_device)
        order = jnp.argsort(number)[:room]
        kept = number[order].astype(jnp.int32)
        values = gradients[order, : table.embedding_dim]
        result[name] = TableGradients(kept, jnp.where((kept == NO_ROW)[:, None], 0.0, values))
    return result


def rows_on_device(
    table: TableSpec, rows: jax.Array, devices: int, per_device: int, device_rows: int
) -> jax.Array:
    """Where rows of a table lie on the device that holds them; `NO_ROW` stays as it is.

    Args:
        table: A stacked table.
        rows: ``[R]`` int32: rows of the table that this device holds, as `TableGradients.rows`.
        devices: Devices of the mesh.
        per_device: SparseCores of a device.
        device_rows: Rows of the stack on a device.
    """
    place, s = table.setting_in_stack, devices * per_device
    core = (rows % s + place.shard_rotation) % s % per_device
    local = place.row_offset_in_shard + rows // s
    return jnp.where(rows == NO_ROW, NO_ROW, core * (device_rows // per_device) + local)
