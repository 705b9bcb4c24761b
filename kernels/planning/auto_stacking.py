"""Which tables to stack: those of one kind, as many as their activations allow."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from kernels.planning.stacking import (
    get_default_limits,
    round_up_dim_and_vocab_size,
    sample_count,
    stack_name_of,
    stack_tables,
)
from kernels.specs import (
    DEFAULT_ACTIVATION_MEM_BYTES_LIMIT,
    FeatureSpec,
    LimitsCallable,
    Nested,
    TableSpec,
)
from kernels.utils import check_num_sparsecores, tree_leaves

__all__ = ["auto_stack_tables", "auto_stack_tables_with_rotation", "split_groups_by_memory_limit"]


def auto_stack_tables(
    feature_specs: Nested[FeatureSpec],
    global_device_count: int,
    num_sc_per_device: int | None = None,
    stack_to_max_ids_per_partition: LimitsCallable = get_default_limits,
    stack_to_max_unique_ids_per_partition: LimitsCallable = get_default_limits,
    use_short_stack_names: bool = True,
    *,
    activation_mem_bytes_limit: int | None = None,
) -> None:
    """Stack all tables that agree in padded columns, optimizer, combiner and quantization.

    A table joins the first stack of its kind where the activations of one SparseCore stay within
    the limit. The specs are changed in place.

    Args:
        feature_specs: The features, none of them stacked yet.
        global_device_count: Devices of the mesh.
        num_sc_per_device: SparseCores of a device; None asks the first device.
        stack_to_max_ids_per_partition: Limit of a stack of several tables.
        stack_to_max_unique_ids_per_partition: Limit of a stack of several tables.
        use_short_stack_names: Cut long stack names, with a hash in place of the rest.
        activation_mem_bytes_limit: Bytes of activations that a SparseCore may hold for one stack;
            None takes `DEFAULT_ACTIVATION_MEM_BYTES_LIMIT`.

    Raises:
        SpecError: If a table is in a stack already.
    """
    auto_stack_tables_with_rotation(
        feature_specs,
        global_device_count,
        check_num_sparsecores(num_sc_per_device),
        stack_to_max_ids_per_partition=stack_to_max_ids_per_partition,
        stack_to_max_unique_ids_per_partition=stack_to_max_unique_ids_per_partition,
        use_short_stack_names=use_short_stack_names,
        activation_mem_bytes_limit=activation_mem_bytes_limit,
    )


def auto_stack_tables_with_rotation(
    features: Nested[FeatureSpec],
    global_device_count: int,
    num_sc_per_device: int,
    rotation: int | None = None,
    stack_to_max_ids_per_partition: LimitsCallable = get_default_limits,
    stack_to_max_unique_ids_per_partition: LimitsCallable = get_default_limits,
    *,
    use_short_stack_names: bool = True,
    activation_mem_bytes_limit: int | None = DEFAULT_ACTIVATION_MEM_BYTES_LIMIT,
) -> None:
    """The same as `auto_stack_tables`, with a choice of rotation.

    This is ``kernels.table_stacking.auto_stack_tables``; `auto_stack_tables` is that of
    ``kernels.embedding``.

    Args:
        features: The features, none of them stacked yet.
        global_device_count: Devices of the mesh.
        num_sc_per_device: SparseCores of a device.
        rotation: SparseCores by which each table of a stack is rotated against the one before it;
            None takes ``num_sc_per_device``.
        stack_to_max_ids_per_partition: See `auto_stack_tables`.
        stack_to_max_unique_ids_per_partition: See `auto_stack_tables`.
        use_short_stack_names: See `auto_stack_tables`.
        activation_mem_bytes_limit: See `auto_stack_tables`.

    Raises:
        SpecError: If a table is in a stack already.
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
    tables: dict[str, TableSpec] = {f.table_spec.name: f.table_spec for f in features}
    columns, _ = round_up_dim_and_vocab_size(tables, num_sc)
    activation_bytes: dict[str, int] = defaultdict(int)
    for feature in features:
        name = feature.table_spec.name
        activation_bytes[name] += 4 * columns[name] * (sample_count(feature) // num_sc)

    kinds: dict[object, list[str]] = defaultdict(list)
    for name, table in tables.items():
        kind = (
            columns[name],
            table.optimizer,
            table.combiner,
            table.quantization_config,
            table.embedding_dim if table.optimizer.mixes_columns else None,
        )
        kinds[kind].append(name)
    return split_groups_by_memory_limit(list(kinds.values()), activation_bytes, bytes_limit)


def split_groups_by_memory_limit(
    groups: Sequence[Sequence[str]], table_to_bytes: Mapping[str, int], bytes_limit: int
) -> list[list[str]]:
    """Groups of tables cut so that none is above a limit, first fit.

    A table that is above the limit by itself is a group of its own.

    Args:
        groups: Names of tables that could be stacked.
        table_to_bytes: Bytes by table.
        bytes_limit: Most bytes of a group of several tables.
    """
    result: list[list[str]] = []
    for group in groups:
        parts: list[list[str]] = []
        for name in group:
            for part in parts:
                if sum(table_to_bytes[other] for other in (*part, name)) <= bytes_limit:
                    part.append(name)
                    break
            else:
                parts.append([name])
        result.extend(parts)
    return result
