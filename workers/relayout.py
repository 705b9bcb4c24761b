"""Tables of a checkpoint brought into another layout: other hosts, devices, SparseCores, stacks.

A stack is saved as one array of all its rows, in the order of its SparseCores. Row ``r`` of a table
lies on SparseCore ``(r + rotation) % S`` at row ``row_offset + r // S`` of its shard, so the rows
that are together on one SparseCore under one plan and on another under the next are evenly spaced
in both: with ``L = lcm(S old, S new)``, every ``L``-th row of the table. Each such set is one
`Move`, a slice with a step into the array as saved and one into the array to make.

Every host reads what its own rows need, one block of one saved shard at a time.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
import tensorstore as ts
from jax.experimental.layout import Format
from jax.sharding import SingleDeviceSharding

from kernels import EmbeddingPlan, EmbeddingVariables, StackPlan, TablePlacement

__all__ = ["Move", "Place", "moves", "open_arrays", "place_of", "read_tables"]

BLOCK_BYTES = 64 << 20
"""Most bytes of a saved array read at once."""


@dataclass(frozen=True, slots=True)
class Move:
    """Rows of one table that one SparseCore held and one SparseCore gets."""

    source: range
    """Rows of the array of the old stack."""
    target: range
    """Rows of the array of the new stack, as many."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a table lies under one plan."""

    stack: StackPlan
    placement: TablePlacement
    sparsecores: int

    @property
    def shard_rows(self) -> int:
        """Rows of the stack on one SparseCore."""
        return self.stack.vocab_size // self.sparsecores

    def position(self, row: int) -> int:
        """Row of the stack's array that holds this row of the table."""
        core = (row + self.placement.shard_rotation) % self.sparsecores
        local = self.placement.row_offset_in_shard + row // self.sparsecores
        return core * self.shard_rows + local


def moves(
    old: EmbeddingPlan, new: EmbeddingPlan, table: str, sparsecores: range
) -> tuple[Move, ...]:
    """Where the rows of a table come from, for some SparseCores of the new plan.

    Args:
        old: The plan the checkpoint was saved under.
        new: The plan to restore for.
        table: Its name, in both plans.
        sparsecores: SparseCores of the new plan whose rows are wanted.

    Returns:
        Moves that name every row of the table on these SparseCores exactly once.
    """
    before, after = place_of(old, table), place_of(new, table)
    rows = new.table(table).vocabulary_size
    period = math.lcm(before.sparsecores, after.sparsecores)
    result = []
    for core in sparsecores:
        first = (core - after.placement.shard_rotation) % after.sparsecores
        for start in range(first, min(period, rows), after.sparsecores):
            count = len(range(start, rows, period))
            result.append(
                Move(
                    _evenly(before.position(start), period // before.sparsecores, count),
                    _evenly(after.position(start), period // after.sparsecores, count),
                )
            )
    return tuple(result)


def _evenly(start: int, step: int, count: int) -> range:
    return range(start, start + step * count, step)


def place_of(plan: EmbeddingPlan, table: str) -> Place:
    """Where a table lies under a plan."""
    for stack in plan.stacks:
        for placement in stack.tables:
            if placement.table == table:
                return Place(stack, placement, plan.topology.sparsecores)
    plan.table(table)  # tells which tables there are
    raise AssertionError(f"plan {plan.hash[:12]} has table '{table}', but in no stack")


def read_tables(
    folder: Path,
    old: EmbeddingPlan,
    new: EmbeddingPlan,
    fresh: MutableMapping[str, EmbeddingVariables],
) -> dict[str, EmbeddingVariables]:
    """The tables and slots of a checkpoint, laid out by another plan.

    Host memory: this host's rows of one stack's array, and two blocks of 64 MiB.

    Args:
        folder: The checkpoint's folder of tables, as Orbax wrote it.
        old: The plan it was saved under.
        new: The plan to restore for, of the same tables.
        fresh: Variables under the new plan as they begin. They give types, shardings, and what is
            in padding. They are taken out one by one, so that memory never holds all of them and
            all of the result.

    Returns:
        By stack, sharded and laid out like ``fresh``.

    Raises:
        ValueError: An array is missing or cannot be read.
    """
    saved = open_arrays(folder)
    result: dict[str, EmbeddingVariables] = {}
    for stack in new.stacks:
        leaves, tree = jax.tree_util.tree_flatten_with_path(fresh.pop(stack.name))
        waiting = deque(leaves)
        del leaves
        arrays = [_filled(waiting, saved, stack, old, new) for _ in range(len(waiting))]
        result[stack.name] = jax.tree.unflatten(tree, arrays)
    return result


def _key_name(key: Any) -> str:
    """A step of a path in a tree, as Orbax names it."""
    return str(getattr(key, "name", getattr(key, "idx", None)))


def open_arrays(folder: Path) -> Callable[[str], ts.TensorStore]:
    """Opens arrays of a checkpoint by their names."""
    store = ts.KvStore.open({"driver": "ocdbt", "base": f"file://{folder.absolute()}/"}).result()
    names = {key.decode() for key in store.list().result()}

    def open_array(name: str) -> ts.TensorStore:
        driver = "zarr3" if f"{name}/zarr.json" in names else "zarr"
        spec = {"driver": driver, "kvstore": store.spec().to_json() | {"path": f"{name}/"}}
        return ts.open(spec, open=True, read=True).result()

    return open_array


def _filled(
    waiting: deque[tuple[Any, jax.Array]],
    saved: Callable[[str], ts.TensorStore],
    stack: StackPlan,
    old: EmbeddingPlan,
    new: EmbeddingPlan,
) -> jax.Array:
    """The first array of a stack that waits, made on this host's devices."""
    path, fresh = waiting.popleft()
    field = ".".join(map(_key_name, path))
    shape, sharding = fresh.shape, fresh.sharding
    layout = cast(Any, fresh).format.layout
    parts = [(s.index[0], s.device, np.array(s.data)) for s in fresh.addressable_shards]
    del fresh  # nobody else has it: its memory is free for the result
    rows_per_core = shape[0] // new.topology.sparsecores
    for placement in stack.tables:
        source = place_of(old, placement.table).stack
        # Padding columns keep what is there; a slot narrower than the table has none.
        columns = min(new.table(placement.table).embedding_dim, shape[1])
        wanted = []
        for rows, _, values in parts:
            here = range(*rows.indices(shape[0]))
            cores = range(here.start // rows_per_core, here.stop // rows_per_core)
            found = moves(old, new, placement.table, cores)
            wanted += [_Copy(move, values[:, :columns], here.start) for move in found]
        _carry_out(saved(f"{source.name}.{field}"), columns, wanted)
    placed = [
        jax.device_put(values, Format(layout, SingleDeviceSharding(device)))
        for _, device, values in parts
    ]
    return jax.make_array_from_single_device_arrays(shape, sharding, placed)


@dataclass(frozen=True, slots=True)
class _Copy:
    """A move into rows of this host."""

    move: Move
    into: np.ndarray
    first_row: int
    """Row of the new stack's array that ``into`` begins with."""

    def from_block(self, values: np.ndarray, block: range) -> None:
        """Take the rows that are in a block of the saved array."""
        source, target = self.move.source, self.move.target
        begin = max(0, -(-(block.start - source.start) // source.step))
        end = min(len(source), -(-(block.stop - source.start) // source.step))
        if begin < end:
            rows = _slice(target[begin:end], self.first_row)
            self.into[rows] = values[_slice(source[begin:end], block.start)]


def _slice(rows: range, origin: int) -> slice:
    return slice(rows.start - origin, rows[-1] + 1 - origin, rows.step)


def _carry_out(array: ts.TensorStore, columns: int, copies: Sequence[_Copy]) -> None:
    """Read what the copies need block by block, the next block while one is copied."""
    rows_per_block = max(1, BLOCK_BYTES // (columns * array.dtype.numpy_dtype.itemsize))
    pending: tuple[Any, range, list[_Copy]] | None = None
    for start, stop, members in _regions(copies):
        for block_start in range(start, stop, rows_per_block):
            block = range(block_start, min(stop, block_start + rows_per_block))
            reading = array[block.start : block.stop, :columns].read()
            if pending is not None:
                _take(*pending)
            pending = reading, block, members
    if pending is not None:
        _take(*pending)


def _take(reading: Any, block: range, members: Sequence[_Copy]) -> None:
    values = np.asarray(reading.result())
    for copy in members:
        copy.from_block(values, block)


def _regions(copies: Sequence[_Copy]) -> Iterator[tuple[int, int, list[_Copy]]]:
    """Copies whose sources lie among each other, with the rows of the saved array they span."""
    group: list[_Copy] = []
    stop = 0
    for copy in sorted(copies, key=lambda copy: copy.move.source.start):
        source = copy.move.source
        if group and source.start >= stop:
            yield group[0].move.source.start, stop, group
            group = []
        group.append(copy)
        stop = max(stop, source[-1] + 1) if len(group) > 1 else source[-1] + 1
    if group:
        yield group[0].move.source.start, stop, group
