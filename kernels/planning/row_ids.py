"""Which rows of a stack are the rows of its tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from kernels.errors import SpecError
from kernels.layout import place_rows
from kernels.planning.plan import EmbeddingPlan
from kernels.planning.stack_description import (
    StackDescription,
    StacksLike,
    TableDescription,
    stacks_of,
)

__all__ = [
    "compute_physical_row_ids",
    "get_row_ids_in_stacked_table",
    "get_row_ids_in_stacked_tables",
]


def compute_physical_row_ids[T: (int, jax.Array, np.ndarray)](
    num_sparse_cores: int,
    stack_vocab_size: int,
    shard_rotation: int,
    row_offset_in_shard: int,
    row_ids: T,
) -> T:
    """Rows of a stack ``[rows, width]`` where rows of one of its tables lie.

    Args:
        num_sparse_cores: SparseCores of the whole mesh.
        stack_vocab_size: Rows of the stack.
        shard_rotation: The table's rotation.
        row_offset_in_shard: The table's first row in every shard.
        row_ids: A row of the table, or an array of them.

    Returns:
        In the form of ``row_ids``.

    Example:
        >>> compute_physical_row_ids(4, 64, 1, 8, 5)
        41
    """
    core, local = place_rows(
        row_ids,  # pyright: ignore[reportArgumentType] - arithmetic is all it needs
        num_sparse_cores,
        rotation=shard_rotation,
        row_offset=row_offset_in_shard,
    )
    return core * (stack_vocab_size // num_sparse_cores) + local  # pyright: ignore[reportReturnType]


def get_row_ids_in_stacked_table(
    stack_table_spec: StackDescription, table_spec: TableDescription, row_ids: Sequence[int]
) -> list[int]:
    """Rows of a stack where the rows given of one of its tables lie.

    Args:
        stack_table_spec: The stack.
        table_spec: The table.
        row_ids: Rows of the table.

    Raises:
        SpecError: If the table has no such row.
    """
    for row in row_ids:
        if row >= table_spec.vocab_size:
            raise SpecError(
                f"{row} exceeds available vocabulary size [{table_spec.vocab_size}] of table "
                f"'{table_spec.table_name}'; ask for rows 0 to {table_spec.vocab_size - 1}"
            )
        if row < 0:
            raise SpecError(f"table '{table_spec.table_name}' has no row {row}; rows start at 0")
    return [
        compute_physical_row_ids(
            stack_table_spec.num_sparsecores,
            stack_table_spec.stack_vocab_size,
            table_spec.shard_rotation,
            table_spec.row_offset_in_shard,
            row,
        )
        for row in row_ids
    ]


def get_row_ids_in_stacked_tables(
    embedding_spec_proto: StacksLike | EmbeddingPlan, row_ids: Mapping[str, Sequence[int]]
) -> dict[str, list[int]]:
    """Rows of the stacks where the rows given of tables lie.

    Args:
        embedding_spec_proto: The plan, or a description (`describe_stacks`, or a protobuf message).
        row_ids: By table, rows of it; tables not named are left out.

    Returns:
        By stack, the rows of its tables one after another, in order of the tables.

    Raises:
        SpecError: If a table has no such row.
    """
    result: dict[str, list[int]] = defaultdict(list)
    for stack in stacks_of(embedding_spec_proto):
        for table in stack.table_specs:
            if table.table_name in row_ids:
                rows = get_row_ids_in_stacked_table(stack, table, row_ids[table.table_name])
                result[stack.stack_name].extend(rows)
    return dict(result)
