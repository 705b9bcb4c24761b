"""Stacking: which tables and features are stored and looked up as one, and where each lies.

The functions write into the specs they are given, as those of ``nn.table_stacking`` of
jax-tpu-embedding do, and give the same results. `kernels.build_plan` uses them on copies.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

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
from kernels.utils import check_num_sparsecores, round_up, tree_leaves

__all__ = [
    "auto_stack_tables",
    "get_default_limits",
    "get_stacked_table_specs",
    "get_table_specs",
    "prepare_feature_specs_for_training",
    "round_up_dim_and_vocab_size",
    "sample_count",
    "stack_name_of",
    "stack_tables",
]

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
            raise SpecError(f"feature '{name}' is defined {count} times; rename all but one")
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
    if fail_on_excess_padding and min(columns.values()) != width:
        raise SpecError(
            f"stack '{stack_name}': the tables' padded columns differ ({columns}), which wastes "
            f"{sum((width - columns[n]) * rows[n] for n in table_names)} values; stack tables of "
            "equal columns, or pass fail_on_excess_padding=False"
        )

    settings: dict[str, TableSettingInStack] = {}
    row_offset, shift = 0, 0
    step = num_sc_per_device if rotation is None else rotation
    for name in table_names:
        settings[name] = TableSettingInStack(
            stack_name=stack_name,
            padded_vocab_size=rows[name],
            padded_embedding_dim=width,
            row_offset_in_shard=row_offset,
            shard_rotation=shift,
        )
        row_offset += rows[name] // num_sc
        shift = (shift + step) % num_sc

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
        unpadded_embedding_dim=_common_dim(tables.values()),
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


def _common_dim(tables: Iterable[TableSpec]) -> int | None:
    dims = {table.embedding_dim for table in tables}
    return dims.pop() if len(dims) == 1 else None


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
                f"stack '{stack_name}': table '{name}' is named {count} times; name it once"
            )
        if name not in tables:
            raise SpecError(
                f"stack '{stack_name}': no feature uses table '{name}'; remove it from table_names"
            )
    for table in tables.values():
        current = table.setting_in_stack.stack_name
        if current != table.name:
            raise SpecError(
                f"table '{table.name}' is already in stack '{current}'; a table can be in one only"
            )
    for feature in features:
        setting = feature.table_spec.setting_in_stack
        if setting.stack_name == stack_name and setting.stack_name != feature.table_spec.name:
            raise SpecError(f"stack name '{stack_name}' is taken; choose another")
    first = tables[table_names[0]]
    for what in ("optimizer", "combiner", "quantization_config"):
        for name in table_names[1:]:
            mine, other = getattr(first, what), getattr(tables[name], what)
            if mine != other:
                raise SpecError(
                    f"stack '{stack_name}': tables '{first.name}' and '{name}' differ in {what} "
                    f"({mine!r} and {other!r}); stack tables that agree in it"
                )
    dims = {tables[name].embedding_dim for name in table_names}
    if first.optimizer.mixes_columns and len(dims) > 1:
        raise SpecError(
            f"stack '{stack_name}': {first.optimizer.short_name()} needs tables of one "
            f"embedding_dim, got {sorted(dims)}; stack those of equal embedding_dim"
        )


def auto_stack_tables(
    features: Nested[FeatureSpec],
    global_device_count: int,
    num_sc_per_device: int | None = None,
    rotation: int | None = None,
    stack_to_max_ids_per_partition: LimitsCallable = get_default_limits,
    stack_to_max_unique_ids_per_partition: LimitsCallable = get_default_limits,
    *,
    use_short_stack_names: bool = True,
    activation_mem_bytes_limit: int | None = DEFAULT_ACTIVATION_MEM_BYTES_LIMIT,
) -> None:
    """Stack all tables that agree in padded columns, optimizer, combiner and quantization.

    A table joins the first stack of its kind where the activations of one SparseCore stay within
    ``activation_mem_bytes_limit``. The specs are changed in place; arguments as in `stack_tables`.
    """
    sparsecores = check_num_sparsecores(num_sc_per_device)
    limit = (
        DEFAULT_ACTIVATION_MEM_BYTES_LIMIT
        if activation_mem_bytes_limit is None
        else activation_mem_bytes_limit
    )
    flat: list[FeatureSpec] = tree_leaves(features)
    for group in _groups(flat, sparsecores * global_device_count, limit):
        stack_tables(
            features=features,
            table_names=group,
            global_device_count=global_device_count,
            num_sc_per_device=sparsecores,
            rotation=rotation,
            stack_to_max_ids_per_partition=stack_to_max_ids_per_partition,
            stack_to_max_unique_ids_per_partition=stack_to_max_unique_ids_per_partition,
            stack_name=stack_name_of(group, use_short_stack_names),
            activation_mem_bytes_limit=limit,
        )


def _groups(features: Sequence[FeatureSpec], num_sc: int, bytes_limit: int) -> list[list[str]]:
    """Names of the tables of every stack."""
    tables = {f.table_spec.name: f.table_spec for f in features}
    columns, _ = round_up_dim_and_vocab_size(tables, num_sc)
    activation_bytes: dict[str, int] = defaultdict(int)
    for feature in features:
        name = feature.table_spec.name
        activation_bytes[name] += 4 * columns[name] * (sample_count(feature) // num_sc)

    kinds: dict[object, list[list[str]]] = defaultdict(list)
    for name, table in tables.items():
        kind = (
            columns[name],
            table.optimizer,
            table.combiner,
            table.quantization_config,
            table.embedding_dim if table.optimizer.mixes_columns else None,
        )
        for group in kinds[kind]:
            if sum(activation_bytes[n] for n in (*group, name)) <= bytes_limit:
                group.append(name)
                break
        else:
            kinds[kind].append([name])
    return [group for groups in kinds.values() for group in groups]


def prepare_feature_specs_for_training(
    feature_specs: Nested[FeatureSpec],
    global_device_count: int,
    num_sc_per_device: int | None = None,
) -> None:
    """Make every table that is in no stack a stack of its own, in place.

    Features that share such a table are placed one after another, in order of their names.

    Args:
        feature_specs: The features; those already stacked are left as they are.
        global_device_count: Devices of the mesh.
        num_sc_per_device: SparseCores of a device; None asks the first device.

    Raises:
        SpecError: If two features have one name, or a table says it is in a stack it is not in.
    """
    num_sc = check_num_sparsecores(num_sc_per_device) * global_device_count
    by_table: dict[str, list[FeatureSpec]] = defaultdict(list)
    for feature in _features(feature_specs):
        if not feature.table_spec.is_stacked():
            by_table[feature.table_spec.name].append(feature)

    for name, features in by_table.items():
        features.sort(key=lambda feature: feature.name)
        total = sum(sample_count(feature) for feature in features)
        row_offset = 0
        for feature in features:
            table = feature.table_spec
            if table.setting_in_stack.stack_name != name:
                raise SpecError(
                    f"table '{name}' names stack '{table.setting_in_stack.stack_name}' but is not "
                    "in it; make a new TableSpec without _setting_in_stack"
                )
            columns, rows = round_up_dim_and_vocab_size({name: table}, num_sc)
            table.setting_in_stack = TableSettingInStack(
                stack_name=name,
                padded_vocab_size=rows[name],
                padded_embedding_dim=columns[name],
            )
            table.stacked_table_spec = StackedTableSpec(
                stack_name=name,
                stack_vocab_size=rows[name],
                stack_embedding_dim=columns[name],
                optimizer=table.optimizer,
                combiner=table.combiner,
                total_sample_count=total,
                max_ids_per_partition=table.max_ids_per_partition,
                max_unique_ids_per_partition=table.max_unique_ids_per_partition,
                suggested_coo_buffer_size_per_device=table.suggested_coo_buffer_size_per_device,
                quantization_config=table.quantization_config,
                unpadded_embedding_dim=table.embedding_dim,
            )
            feature.id_transformation = FeatureIdTransformation(row_offset=row_offset)
            row_offset += sample_count(feature)
