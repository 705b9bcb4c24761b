"""Tables and slot variables as they are stored, and as logical tables."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from kernels.layout import from_shards, to_shards
from kernels.optimizers.base import Initializer
from kernels.planning.plan import EmbeddingPlan

__all__ = [
    "EmbeddingVariables",
    "EmbeddingVariablesInitializer",
    "like_slots",
    "stack_tables_into",
    "unstack_tables",
    "unstack_variables",
]


class EmbeddingVariables(NamedTuple):
    """A stack's table, ``[rows, width]``, and its slot variables, ``[rows, slot width]`` each."""

    table: Any
    slot: tuple[Any, ...]


class EmbeddingVariablesInitializer(NamedTuple):
    """What makes the first values of a table and of its slot variables."""

    table: Initializer
    slot: tuple[Initializer, ...]


def like_slots(template: tuple[Any, ...], values: list[Any]) -> tuple[Any, ...]:
    """Slot variables in a tuple of the template's type, a named one or a plain one."""
    kind: Callable[..., tuple[Any, ...]] | None = getattr(template, "_make", None)
    return tuple(values) if kind is None else kind(values)


def unstack_variables(
    plan: EmbeddingPlan, variables: Mapping[str, EmbeddingVariables]
) -> dict[str, EmbeddingVariables]:
    """Logical tables and slots as numpy arrays, by table: ``[vocabulary_size, columns]``.

    Args:
        plan: The plan the variables were made for.
        variables: Arrays that this process can read in full (numpy, or all devices local).
    """
    result: dict[str, EmbeddingVariables] = {}
    sparsecores = plan.topology.sparsecores
    for stack in plan.stacks:
        mine = variables[stack.name]
        table, slots = np.asarray(mine.table), [np.asarray(slot) for slot in mine.slot]
        for place in stack.tables:
            spec = plan.table(place.table)
            where = {"rotation": place.shard_rotation, "row_offset": place.row_offset_in_shard}
            read = functools.partial(
                from_shards, sparsecores=sparsecores, vocabulary_size=spec.vocabulary_size, **where
            )
            # A slot as wide as the table is padded as it is; a narrower one has no padding.
            logical = [
                read(slot, embedding_dim=min(spec.embedding_dim, slot.shape[1])) for slot in slots
            ]
            result[place.table] = EmbeddingVariables(
                read(table, embedding_dim=spec.embedding_dim), like_slots(mine.slot, logical)
            )
    return result


def unstack_tables(
    plan: EmbeddingPlan, variables: Mapping[str, EmbeddingVariables]
) -> dict[str, np.ndarray]:
    """Logical tables as numpy arrays, by table: ``[vocabulary_size, embedding_dim]``."""
    return {name: logical.table for name, logical in unstack_variables(plan, variables).items()}


def stack_tables_into(
    plan: EmbeddingPlan,
    variables: Mapping[str, EmbeddingVariables],
    logical: Mapping[str, EmbeddingVariables],
) -> dict[str, EmbeddingVariables]:
    """Logical tables and slots put into (copies of) stacked ones: the inverse of unstacking.

    Args:
        plan: The plan the stacked variables are for.
        variables: Stacked variables that give padding its values.
        logical: By table, as `unstack_variables` returns them; tables not named keep their values.

    Returns:
        By stack, as numpy arrays.
    """
    result: dict[str, EmbeddingVariables] = {}
    for stack in plan.stacks:
        mine = variables[stack.name]
        arrays = [np.array(array) for array in (mine.table, *mine.slot)]
        for place in stack.tables:
            if place.table not in logical:
                continue
            given = logical[place.table]
            for array, value in zip(arrays, (given.table, *given.slot), strict=True):
                to_shards(
                    array,
                    np.asarray(value),
                    plan.topology.sparsecores,
                    rotation=place.shard_rotation,
                    row_offset=place.row_offset_in_shard,
                )
        result[stack.name] = EmbeddingVariables(arrays[0], like_slots(mine.slot, arrays[1:]))
    return result
