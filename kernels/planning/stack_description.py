"""What must be known of stacks to take their arrays apart: no specs, optimizers or initializers.

The attributes have the names of the protobuf messages ``EmbeddingSpecProto``,
``StackedTableSpecProto`` and ``TableSpecProto`` of jax-tpu-embedding. So the functions that take a
description take such a message too, for example one read from an old checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import jax

from kernels.planning.plan import EmbeddingPlan
from kernels.planning.stacking import get_stacked_table_specs
from kernels.specs import FeatureSpec, Nested, TableSpec
from kernels.utils import check_num_sparsecores, tree_leaves

__all__ = [
    "EmbeddingDescription",
    "StackDescription",
    "StacksLike",
    "TableDescription",
    "describe_plan",
    "describe_stacks",
    "stacks_of",
]


@dataclass(frozen=True, kw_only=True)
class TableDescription:
    """A table and where it lies in its stack: see `kernels.TableSettingInStack`."""

    table_name: str
    vocab_size: int
    embedding_dim: int
    padded_vocab_size: int
    padded_embedding_dim: int
    row_offset_in_shard: int
    shard_rotation: int


@dataclass(frozen=True, kw_only=True)
class StackDescription:
    """A stack: ``[stack_vocab_size, stack_embedding_dim]``, on ``num_sparsecores`` in all."""

    stack_name: str
    stack_vocab_size: int
    stack_embedding_dim: int
    num_sparsecores: int
    table_specs: tuple[TableDescription, ...]
    """In order of their row offsets."""


@dataclass(frozen=True)
class EmbeddingDescription:
    """All stacks of a model."""

    stacked_table_specs: tuple[StackDescription, ...]


class StacksLike(Protocol):
    """An `EmbeddingDescription`, or a protobuf message with the same attributes."""

    @property
    def stacked_table_specs(self) -> Iterable[StackDescription]:
        """The stacks."""
        ...


def describe_plan(plan: EmbeddingPlan) -> EmbeddingDescription:
    """The stacks of a plan."""
    return EmbeddingDescription(
        tuple(
            StackDescription(
                stack_name=stack.name,
                stack_vocab_size=stack.vocab_size,
                stack_embedding_dim=stack.width,
                num_sparsecores=plan.topology.sparsecores,
                table_specs=tuple(
                    TableDescription(
                        table_name=place.table,
                        vocab_size=plan.table(place.table).vocabulary_size,
                        embedding_dim=plan.table(place.table).embedding_dim,
                        padded_vocab_size=place.padded_vocab_size,
                        padded_embedding_dim=stack.width,
                        row_offset_in_shard=place.row_offset_in_shard,
                        shard_rotation=place.shard_rotation,
                    )
                    for place in stack.tables
                ),
            )
            for stack in plan.stacks
        )
    )


def describe_stacks(
    feature_specs: Nested[FeatureSpec],
    global_device_count: int | None = None,
    num_sparsecore_per_device: int | None = None,
) -> EmbeddingDescription:
    """The stacks of features that have been stacked, in the order the features name them.

    Args:
        feature_specs: Stacked features.
        global_device_count: Devices of the mesh; None takes all devices of JAX.
        num_sparsecore_per_device: SparseCores of a device; None asks the first device.

    Raises:
        SpecError: If a table has not been stacked, or two features have one name.
    """
    devices = jax.device_count() if global_device_count is None else global_device_count
    sparsecores = devices * check_num_sparsecores(num_sparsecore_per_device)
    tables: dict[str, dict[str, TableSpec]] = {}
    for feature in tree_leaves(feature_specs):
        table: TableSpec = feature.table_spec
        tables.setdefault(table.setting_in_stack.stack_name, {})[table.name] = table
    return EmbeddingDescription(
        tuple(
            StackDescription(
                stack_name=name,
                stack_vocab_size=stack.stack_vocab_size,
                stack_embedding_dim=stack.stack_embedding_dim,
                num_sparsecores=sparsecores,
                table_specs=tuple(
                    sorted(
                        (_describe(table) for table in tables[name].values()),
                        key=lambda table: table.row_offset_in_shard,
                    )
                ),
            )
            for name, stack in get_stacked_table_specs(feature_specs).items()
        )
    )


def _describe(table: TableSpec) -> TableDescription:
    setting = table.setting_in_stack
    return TableDescription(
        table_name=table.name,
        vocab_size=table.vocabulary_size,
        embedding_dim=table.embedding_dim,
        padded_vocab_size=setting.padded_vocab_size,
        padded_embedding_dim=setting.padded_embedding_dim,
        row_offset_in_shard=setting.row_offset_in_shard,
        shard_rotation=setting.shard_rotation,
    )


def stacks_of(embedding_specs: StacksLike | EmbeddingPlan) -> tuple[StackDescription, ...]:
    """The stacks of a plan or of a description."""
    if isinstance(embedding_specs, EmbeddingPlan):
        return describe_plan(embedding_specs).stacked_table_specs
    return tuple(embedding_specs.stacked_table_specs)
