"""Stacking: tables that are stored, looked up and updated as one, and where each lies in it.

The functions write into the specs they are given, as those of ``nn.table_stacking`` of
jax-tpu-embedding do, and give the same results. `kernels.build_plan` uses them on copies.
Which tables to stack is chosen in `kernels.planning.auto_stacking`.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from kernels.errors import SpecError
from kernels.specs import (
    DEFAULT_ACTIVATION_MEM_BYTES_LIMIT,
    FeatureIdTransformation,
    FeatureSpec,
    LimitsCallable,
    Nested,
    StackedTableSpec,
    TableSettingInStack,
    TableSpec,
)
from kernels.utils import round_up, tree_leaves

__all__ = [
    "compute_table_to_setting_in_stack",
    "get_default_limits",
    "get_stacked_table_specs",
    "get_table_specs",
    "get_table_stacks",
    "round_up_dim_and_vocab_size",
    "sample_count",
    "stack_name_of",
    "stack_tables",
]

_LOGGER = logging.getLogger(__name__)

_COLUMN_MULTIPLE = 8
_ROW_MULTIPLE = 8


def get_default_limits(name: str, batch_size: int) -> int:
    """The limit of a stack about which nothing is known: 256."""
    del name, batch_size
    return 256


def sample_count(feature: FeatureSpec) -> int:
    """Samples of a feature in a global batch."""
    return math.prod(int(size) for size in feature.output_shape[:-1])


def round_up_dim_and_vocab_size(
    tables: Mapping[str, TableSpec], num_sc: int
) -> tuple[dict[str, int], dict[str, int]]:
    """Padded columns and padded rows of every table, by name.

    Columns go up to a multiple of 8, rows to a multiple of 8 times ``num_sc``, the number of
    SparseCores of the whole mesh, so that every shard has a multiple of 8 rows.
    """
    columns = {
        name: round_up(table.embedding_dim, _COLUMN_MULTIPLE) for name, table in tables.items()
    }
    rows = {
        name: round_up(table.vocabulary_size, _ROW_MULTIPLE * num_sc)
        for name, table in tables.items()
    }
    return columns, rows


def _features(feature_specs: Nested[FeatureSpec]) -> list[FeatureSpec]:
    """The features, checked to have names of their own."""
    features: list[FeatureSpec] = tree_leaves(feature_specs)
    for name, count in Counter(feature.name for feature in features).items():
        if count > 1:
            raise SpecError(
                f"Feature spec {name} is already defined: {count} features have this name; rename "
                "all but one"
            )
    return features


def get_table_specs(feature_specs: Nested[FeatureSpec]) -> dict[str, TableSpec]:
    """The tables the features use, by name.

    Raises:
        SpecError: If two features have one name.
    """
    return {f.table_spec.name: f.table_spec for f in _features(feature_specs)}


def get_stacked_table_specs(feature_specs: Nested[FeatureSpec]) -> dict[str, StackedTableSpec]:
    """The stacks the features use, by name.

    Raises:
        SpecError: If a table has not been stacked, or two features have one name.
    """
    stacks = [f.table_spec.stacked_table_spec for f in _features(feature_specs)]
    return {stack.stack_name: stack for stack in stacks}


def get_table_stacks(table_specs: Nested[TableSpec]) -> dict[str, list[TableSpec]]:
    """The tables of every stack, by its name, in the order given.

    A table that has not been stacked counts as a stack of its own.
    """
    stacks: dict[str, list[TableSpec]] = defaultdict(list)
    for table in tree_leaves(table_specs):
        stacks[table.setting_in_stack.stack_name].append(table)
    return dict(stacks)


def stack_name_of(table_names: Sequence[str], use_short_stack_names: bool = True) -> str:
    """The tables' names joined; beyond 50 characters cut there, with 12 digits of their SHA-256."""
    name = "_".join(table_names)
    if not use_short_stack_names or len(name) <= 50:
        return name
    return f"{name[:50]}...{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def stack_tables(
    features: Nested[FeatureSpec],
    table_names: Sequence[str],
    global_device_count: int,
    num_sc_per_device: int,
    rotation: int | None = None,
    stack_to_max_ids_per_partition: LimitsCallable = get_default_limits,
    stack_to_max_unique_ids_per_partition: LimitsCallable = get_default_limits,
    stack_name: str | None = None,
    fail_on_excess_padding: bool = False,
    *,
    activation_mem_bytes_limit: int = DEFAULT_ACTIVATION_MEM_BYTES_LIMIT,
) -> None:
    """Stack the named tables, in the order given, and write it into ``features``.

    Args:
        features: The features; those of the named tables are changed in place.
        table_names: Tables to stack.
        global_device_count: Devices of the mesh.
        num_sc_per_device: SparseCores of a device.
        rotation: SparseCores by which each table is rotated against the one before it; None takes
            ``num_sc_per_device``.
        stack_to_max_ids_per_partition: Limit of a stack of several tables.
        stack_to_max_unique_ids_per_partition: Limit of a stack of several tables.
        stack_name: None makes one from the tables' names.
        fail_on_excess_padding: Refuse tables whose padded columns differ.
        activation_mem_bytes_limit: Recorded in the stack.

    Raises:
        SpecError: If the tables cannot be stacked together.
    """
    stack_name = stack_name or stack_name_of(table_names)
    all_features: list[FeatureSpec] = tree_leaves(features)
    members = [f for f in all_features if f.table_spec.name in set(table_names)]
    tables = {f.table_spec.name: f.table_spec for f in members}
    _check_group(stack_name, table_names, all_features, tables)

    num_sc = num_sc_per_device * global_device_count
    columns, rows = round_up_dim_and_vocab_size(tables, num_sc)
    width = max(columns.values())
    if min(columns.values()) != width:
        excess = (
            f"Excess padding detected for stacked table {stack_name}: the tables' padded columns "
            f"differ ({columns}), which wastes "
            f"{sum((width - columns[n]) * rows[n] for n in table_names)} values; stack tables of "
            "equal padded columns"
        )
        if fail_on_excess_padding:
            raise SpecError(f"{excess}, or pass fail_on_excess_padding=False")
        _LOGGER.warning("%s", excess)

    settings = compute_table_to_setting_in_stack(
        stack_name,
        table_names,
        width,
        rows,
        num_sc,
        num_sc_per_device if rotation is None else rotation,
    )
    sample_offsets: dict[str, int] = {}
    samples = 0
    for feature in members:
        sample_offsets[feature.name] = samples
        samples += sample_count(feature)

    first = tables[table_names[0]]
    if len(table_names) == 1:
        limits = (first.max_ids_per_partition, first.max_unique_ids_per_partition)
    else:
        limits = (
            stack_to_max_ids_per_partition(stack_name, samples),
            stack_to_max_unique_ids_per_partition(stack_name, samples),
        )
    stack = StackedTableSpec(
        stack_name=stack_name,
        stack_vocab_size=sum(rows[name] for name in table_names),
        stack_embedding_dim=width,
        optimizer=members[0].table_spec.optimizer,
        combiner=members[0].table_spec.combiner,
        total_sample_count=samples,
        max_ids_per_partition=limits[0],
        max_unique_ids_per_partition=limits[1],
        activation_mem_bytes_limit=activation_mem_bytes_limit,
        quantization_config=members[0].table_spec.quantization_config,
        unpadded_embedding_dim=first.embedding_dim if first.optimizer.mixes_columns else None,
    )
    for feature in members:
        setting = settings[feature.table_spec.name]
        feature.table_spec.stacked_table_spec = stack
        feature.table_spec.setting_in_stack = setting
        feature.id_transformation = FeatureIdTransformation(
            row_offset=sample_offsets[feature.name],
            col_offset=setting.row_offset_in_shard * num_sc,
            col_shift=setting.shard_rotation,
        )


def compute_table_to_setting_in_stack(
    stack_name: str,
    table_names: Sequence[str],
    padded_embedding_dim: int,
    table_to_padded_vocab_size: Mapping[str, int],
    num_shards: int,
    rotation: int,
) -> dict[str, TableSettingInStack]:
    """Where each table lies in a stack: one after another in every shard, each rotated further.

    Args:
        stack_name: Name of the stack.
        table_names: Its tables, in order.
        padded_embedding_dim: Columns of the stack.
        table_to_padded_vocab_size: Rows of every table, multiples of ``num_shards``.
        num_shards: SparseCores of the whole mesh.
        rotation: SparseCores by which each table is rotated against the one before it.

    Raises:
        SpecError: If the rows of a table are not given.
    """
    settings: dict[str, TableSettingInStack] = {}
    row_offset, shift = 0, 0
    for name in table_names:
        if name not in table_to_padded_vocab_size:
            raise SpecError(
                f"Padded vocab size for Table {name} is missing; give it for every table of stack "
                f"'{stack_name}'"
            )
        settings[name] = TableSettingInStack(
            stack_name=stack_name,
            padded_vocab_size=table_to_padded_vocab_size[name],
            padded_embedding_dim=padded_embedding_dim,
            row_offset_in_shard=row_offset,
            shard_rotation=shift,
        )
        row_offset += table_to_padded_vocab_size[name] // num_shards
        shift = (shift + rotation) % num_shards
    return settings


def _check_group(
    stack_name: str,
    table_names: Sequence[str],
    features: Sequence[FeatureSpec],
    tables: Mapping[str, TableSpec],
) -> None:
    if not table_names:
        raise SpecError(f"stack '{stack_name}' has no tables; name at least one")
    for name, count in Counter(table_names).items():
        if count > 1:
            raise SpecError(
                f"Table {name} is repeated in group {stack_name}: it is named {count} times; name "
                "it once"
            )
        if name not in tables:
            raise SpecError(
                f"stack '{stack_name}': no feature uses table '{name}'; remove it from table_names"
            )
    for table in tables.values():
        current = table.setting_in_stack.stack_name
        if current != table.name:
            raise SpecError(
                f"Table {table.name} is already stacked in group {current}; a table can be in one "
                "stack only"
            )
    for feature in features:
        setting = feature.table_spec.setting_in_stack
        if setting.stack_name == stack_name and setting.stack_name != feature.table_spec.name:
            raise SpecError(
                f"Cannot use stack name {stack_name} since it's already used; choose another"
            )
    first = tables[table_names[0]]
    for what in ("optimizer", "combiner", "quantization_config"):
        for name in table_names[1:]:
            mine, other = getattr(first, what), getattr(tables[name], what)
            if mine != other:
                raise SpecError(
                    f"Tables {list(table_names)} in group {stack_name} have different "
                    f"{what.replace('_', ' ')}s: '{first.name}' has {mine!r}, '{name}' has "
                    f"{other!r}; stack tables that agree in it"
                )
    dims = {tables[name].embedding_dim for name in table_names}
    if first.optimizer.mixes_columns and len(dims) > 1:
        raise SpecError(
            f"stack '{stack_name}': {first.optimizer.short_name()} needs tables of one "
            f"embedding_dim, got {sorted(dims)}; stack those of equal embedding_dim"
        )
