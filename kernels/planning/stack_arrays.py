"""Arrays of whole tables into arrays of stacks, and back, in JAX.

    tables [vocabulary, columns]   ──stack_and_shard_tables──►   stacks [SparseCores, rows, width]
                                   ◄──unshard_and_unstack_tables──
    tables                         ──stack_and_shard_feature_tables──►       stacks [rows, width]
                                   ◄──unstack_and_unshard_stacked_tables──

The first pair goes by specs, the second by a plan or a description, and keeps arrays on the devices
they are on. Where a row lies is told in `kernels.layout`, which does the same in numpy.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from kernels.errors import SpecError
from kernels.planning.plan import EmbeddingPlan
from kernels.planning.stack_description import (
    StackDescription,
    StacksLike,
    TableDescription,
    stacks_of,
)
from kernels.planning.stacking import get_table_stacks, round_up_dim_and_vocab_size
from kernels.specs import Nested, TableSpec
from kernels.utils import name_list

__all__ = [
    "stack_and_shard_feature_tables",
    "stack_and_shard_tables",
    "unshard_and_unstack_tables",
    "unstack_and_unshard_stacked_table",
    "unstack_and_unshard_stacked_tables",
]


def stack_and_shard_tables(
    table_specs: Nested[TableSpec],
    tables: Nested[Any],
    num_shards: int,
    pad_value: jax.typing.ArrayLike = jnp.nan,
) -> dict[str, Nested[jax.Array]]:
    """Whole tables put into their stacks.

    Args:
        table_specs: The tables' specs, stacked or not; a table that is not is a stack of its own.
        tables: In the structure of ``table_specs``; each an array ``[vocabulary, columns]``, or a
            tree of such arrays (a table with its slot variables), the same for all tables of a
            stack. Columns are padded to the stack's width, but not those of an array that has
            fewer than its table, as a slot variable may.
        num_shards: SparseCores of the whole mesh.
        pad_value: Value of padding rows and columns.

    Returns:
        By stack, ``[SparseCores, rows of a shard, width]`` float32, in a tree like that of the
        stack's tables.

    Raises:
        SpecError: If an array is not of its table's shape.
    """
    arrays: dict[str, Any] = {}
    jax.tree.map(lambda spec, array: arrays.update({spec.name: array}), table_specs, tables)
    result: dict[str, Nested[jax.Array]] = {}
    for name, specs in get_table_stacks(table_specs).items():
        parts = [_placed(spec, num_shards) for spec in specs]
        rows = _stack_rows(specs, num_shards)
        result[name] = jax.tree.map(
            functools.partial(_stacked, parts, rows, num_shards, pad_value),
            *(arrays[spec.name] for spec in specs),
        )
    return result


def _stacked(
    places: Sequence[TableDescription],
    rows: int,
    num_shards: int,
    pad_value: jax.typing.ArrayLike,
    *tables: jax.Array,
) -> jax.Array:
    """``[SparseCores, rows // SparseCores, width]``."""
    parts = [
        _sharded(place, table, num_shards, pad_value)
        for place, table in zip(places, tables, strict=True)
    ]
    stack = jnp.zeros((num_shards, rows // num_shards, parts[0].shape[-1]), jnp.float32)
    for place, shards in zip(places, parts, strict=True):
        first = place.row_offset_in_shard
        stack = stack.at[:, first : first + shards.shape[1]].set(shards)
    return stack


def _sharded(
    place: TableDescription, table: Any, num_shards: int, pad_value: jax.typing.ArrayLike
) -> jax.Array:
    """A table padded, cut and rotated: ``[SparseCores, rows of a shard, padded columns]``."""
    shape = tuple(table.shape)
    if len(shape) != 2 or shape[0] != place.vocab_size or shape[1] > place.embedding_dim:
        raise SpecError(
            f"table '{place.table_name}' is an array of shape {shape}, but has "
            f"{place.vocab_size} rows and {place.embedding_dim} columns; pass the whole table, "
            "without padding"
        )
    full = shape[1] == place.embedding_dim
    missing = (
        (0, place.padded_vocab_size - place.vocab_size),
        (0, place.padded_embedding_dim - place.embedding_dim if full else 0),
    )
    padded = jnp.pad(jnp.asarray(table), missing, constant_values=pad_value)
    shards = padded.reshape(-1, num_shards, padded.shape[1]).swapaxes(0, 1)
    return jnp.roll(shards, place.shard_rotation, axis=0)


def unshard_and_unstack_tables(
    table_specs: Nested[TableSpec],
    stacked_tables: Mapping[str, Nested[jax.Array]],
    num_shards: int,
) -> Nested[jax.Array]:
    """Whole tables taken out of their stacks, the inverse of `stack_and_shard_tables`.

    Args:
        table_specs: The tables' specs, stacked or not.
        stacked_tables: By stack, arrays ``[SparseCores, rows of a shard, width]`` or ``[rows,
            width]``, or trees of them.
        num_shards: SparseCores of the whole mesh.

    Returns:
        In the structure of ``table_specs``, each with a tree like that of its stack: arrays
        ``[vocabulary, columns]``.

    Raises:
        SpecError: If a stack is missing.
    """

    def of_table(spec: TableSpec) -> Nested[jax.Array]:
        name = spec.setting_in_stack.stack_name
        if name not in stacked_tables:
            raise SpecError(
                f"stack '{name}' of table '{spec.name}' is not in stacked_tables (they are "
                f"{name_list(stacked_tables)}); pass every stack of the specs"
            )
        take = functools.partial(_unsharded, _placed(spec, num_shards), num_shards)
        return jax.tree.map(take, stacked_tables[name])

    return jax.tree.map(of_table, table_specs)


def _unsharded(place: TableDescription, num_shards: int, stack: jax.Array) -> jax.Array:
    """``[vocabulary, columns]`` out of a stack, whatever its leading dimensions."""
    width = stack.shape[-1]
    shards = stack.reshape(num_shards, -1, width)
    first, rows = place.row_offset_in_shard, place.padded_vocab_size // num_shards
    mine = jnp.roll(shards[:, first : first + rows], -place.shard_rotation, axis=0)
    return mine.swapaxes(0, 1).reshape(-1, width)[: place.vocab_size, : place.embedding_dim]


def _placed(spec: TableSpec, num_shards: int) -> TableDescription:
    """Where a table lies; one that is not stacked begins a stack of its own."""
    columns, rows = round_up_dim_and_vocab_size({spec.name: spec}, num_shards)
    setting = spec.setting_in_stack
    return TableDescription(
        table_name=spec.name,
        vocab_size=spec.vocabulary_size,
        embedding_dim=spec.embedding_dim,
        padded_vocab_size=rows[spec.name],
        padded_embedding_dim=(
            spec.stacked_table_spec.stack_embedding_dim if spec.is_stacked() else columns[spec.name]
        ),
        row_offset_in_shard=setting.row_offset_in_shard,
        shard_rotation=setting.shard_rotation,
    )


def _stack_rows(specs: Sequence[TableSpec], num_shards: int) -> int:
    if specs[0].is_stacked():
        return specs[0].stacked_table_spec.stack_vocab_size
    return sum(_placed(spec, num_shards).padded_vocab_size for spec in specs)


def unstack_and_unshard_stacked_tables(
    stacked_tables: Mapping[str, jax.Array],
    embedding_specs: StacksLike | EmbeddingPlan,
    donate: bool = False,
) -> dict[str, jax.Array]:
    """Whole tables taken out of their stacks, on the devices the stacks are on.

    Args:
        stacked_tables: By stack, ``[rows, width]``.
        embedding_specs: The plan, or a description (`describe_stacks`, or a protobuf message).
        donate: Delete each stack when its tables are out, to save memory.

    Returns:
        By table, ``[vocabulary, columns]``, sharded as the stack where its rows can be divided, and
        on all of its devices otherwise.

    Raises:
        SpecError: If a stack is missing.
    """
    result: dict[str, jax.Array] = {}
    for stack in stacks_of(embedding_specs):
        if stack.stack_name not in stacked_tables:
            raise SpecError(
                f"Stacked table '{stack.stack_name}' not found in `stacked_tables`; they are "
                f"{name_list(stacked_tables)}"
            )
        result |= unstack_and_unshard_stacked_table(stacked_tables[stack.stack_name], stack, donate)
    return result


def unstack_and_unshard_stacked_table(
    stacked_table: jax.Array, stacked_table_specs: StackDescription, donate: bool = False
) -> dict[str, jax.Array]:
    """The tables of one stack: see `unstack_and_unshard_stacked_tables`."""
    result: dict[str, jax.Array] = {}
    for table in stacked_table_specs.table_specs:
        take = functools.partial(_unsharded, table, stacked_table_specs.num_sparsecores)
        shape = (table.vocab_size, min(table.embedding_dim, stacked_table.shape[-1]))
        place = _like(getattr(stacked_table, "sharding", None), shape)
        result[table.table_name] = jax.jit(take, out_shardings=place)(stacked_table)
    if donate:
        jax.block_until_ready(result)
        stacked_table.delete()
    return result


def _like(sharding: Sharding | None, shape: tuple[int, ...]) -> Sharding | None:
    """The sharding, or all of the array on each of its devices where the shape does not divide."""
    if sharding is None:
        return None
    try:
        sharding.shard_shape(shape)
    except ValueError:
        if isinstance(sharding, NamedSharding):
            return NamedSharding(sharding.mesh, PartitionSpec())
        return None
    return sharding


def stack_and_shard_feature_tables(
    feature_tables: Mapping[str, jax.Array],
    embedding_specs: StacksLike | EmbeddingPlan,
    delete_input: bool = False,
) -> dict[str, jax.Array]:
    """Whole tables put into their stacks, on the devices the tables are on.

    Args:
        feature_tables: By table, ``[vocabulary, columns]``, all of one sharding.
        embedding_specs: The plan, or a description (`describe_stacks`, or a protobuf message).
        delete_input: Delete each table when it is in its stack, to save memory.

    Returns:
        By stack, ``[rows, width]``, sharded as the tables; padding is 0.

    Raises:
        SpecError: If a table is missing or of another shape, or shardings differ.
    """
    shardings = {name: getattr(table, "sharding", None) for name, table in feature_tables.items()}
    first = next(iter(shardings), None)
    for name, sharding in shardings.items():
        if first is not None and sharding != shardings[first]:
            raise SpecError(
                f"All feature tables must have the same sharding: '{first}' has "
                f"{shardings[first]}, '{name}' has {sharding}; put them alike with jax.device_put"
            )
    result: dict[str, jax.Array] = {}
    for stack in stacks_of(embedding_specs):
        parts: list[jax.Array] = []
        for table in stack.table_specs:
            if table.table_name not in feature_tables:
                raise SpecError(
                    f"'{table.table_name}' not found in `feature_tables`; they are "
                    f"{name_list(feature_tables)}"
                )
            if table.padded_embedding_dim != stack.stack_embedding_dim:
                raise SpecError(
                    f"table '{table.table_name}' has {table.padded_embedding_dim} padded columns, "
                    f"but its stack '{stack.stack_name}' has {stack.stack_embedding_dim}; "
                    "describe the stack anew"
                )
            array = feature_tables[table.table_name]
            cut = functools.partial(
                _sharded, table, num_shards=stack.num_sparsecores, pad_value=0.0
            )
            parts.append(jax.jit(cut)(array))
            if delete_input:
                jax.block_until_ready(parts[-1])
                array.delete()
        join = jax.jit(_joined, out_shardings=shardings[first] if first is not None else None)
        result[stack.stack_name] = join(*parts)
    return result


def _joined(*shards: jax.Array) -> jax.Array:
    stack = jnp.concatenate(shards, axis=1)
    return stack.reshape(-1, stack.shape[-1])
