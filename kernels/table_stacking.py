"""The names of ``nn.table_stacking`` of jax-tpu-embedding, gathered from where they live."""

from __future__ import annotations

import jax

from kernels.planning.auto_stacking import (
    auto_stack_tables_with_rotation as auto_stack_tables,
)
from kernels.planning.auto_stacking import (
    split_groups_by_memory_limit as _split_groups_by_memory_limit,
)
from kernels.planning.row_ids import (
    compute_physical_row_ids,
    get_row_ids_in_stacked_table,
    get_row_ids_in_stacked_tables,
)
from kernels.planning.stack_arrays import (
    stack_and_shard_feature_tables,
    stack_and_shard_tables,
    unshard_and_unstack_tables,
    unstack_and_unshard_stacked_tables,
)
from kernels.planning.stack_arrays import (
    unstack_and_unshard_stacked_table as _unstack_and_unshard_stacked_table,
)
from kernels.planning.stack_description import describe_plan, describe_stacks
from kernels.planning.stacking import (
    compute_table_to_setting_in_stack,
    get_default_limits,
    get_table_stacks,
    round_up_dim_and_vocab_size,
    stack_tables,
)
from kernels.specs import (
    DEFAULT_ACTIVATION_MEM_BYTES_LIMIT,
    LimitsCallable,
    Nested,
    StackedTableSpec,
    TableSpec,
)
from kernels.utils import round_up as _next_largest_multiple

__all__ = [
    "DEFAULT_ACTIVATION_MEM_BYTES_LIMIT",
    "ArrayLike",
    "LimitsCallable",
    "Nested",
    "Shape",
    "StackedTableSpec",
    "TableSpec",
    "auto_stack_tables",
    "compute_physical_row_ids",
    "compute_table_to_setting_in_stack",
    "describe_plan",
    "describe_stacks",
    "get_default_limits",
    "get_row_ids_in_stacked_table",
    "get_row_ids_in_stacked_tables",
    "get_table_stacks",
    "round_up_dim_and_vocab_size",
    "stack_and_shard_feature_tables",
    "stack_and_shard_tables",
    "stack_tables",
    "unshard_and_unstack_tables",
    "unstack_and_unshard_stacked_tables",
]

ArrayLike = jax.typing.ArrayLike

type Shape = tuple[int, ...]

# Not public there either, but called by tests and programs in the field.
_PRIVATE_THERE = (
    _next_largest_multiple,
    _split_groups_by_memory_limit,
    _unstack_and_unshard_stacked_table,
)
