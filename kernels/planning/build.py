"""From specs to a plan, and from a plan back to specs that are ready for training."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Mapping, Set

import jax

from kernels.errors import SpecError
from kernels.planning.auto_stacking import auto_stack_tables
from kernels.planning.limits import Limits, feature_valency, theoretical_limits
from kernels.planning.memory import estimate_memory
from kernels.planning.plan import (
    EmbeddingPlan,
    FeaturePlan,
    StackPlan,
    TablePlacement,
    TablePlan,
)
from kernels.planning.preparation import prepare_feature_specs_for_training
from kernels.planning.stacking import get_table_specs, sample_count
from kernels.planning.topology import Topology
from kernels.specs import (
    DEFAULT_ACTIVATION_MEM_BYTES_LIMIT,
    FeatureIdTransformation,
    FeatureSpec,
    Nested,
    StackedTableSpec,
    TableSettingInStack,
    TableSpec,
)
from kernels.utils import name_list, tree_leaves

__all__ = ["apply_plan", "build_plan", "feature_plan", "stack_plan", "table_plan"]


def build_plan(
    feature_specs: Nested[FeatureSpec],
    topology: Topology,
    *,
    batch_size: int,
    limits: Mapping[str, Limits] | None = None,
    version: int = 0,
    stack: bool = True,
    minibatching: bool = False,
    activation_mem_bytes_limit: int = DEFAULT_ACTIVATION_MEM_BYTES_LIMIT,
) -> EmbeddingPlan:
    """Decide where every table lies and how much room batches get. Pure; touches no device.

    Args:
        feature_specs: Features as the user specified them. They are not changed, and stacking
            they may have been through already is set aside.
        topology: The mesh to plan for.
        batch_size: Samples of a global batch.
        limits: Limits by stack; a stack not named gets its theoretical maximum, which no batch can
            exceed.
        version: Number of the plan.
        stack: Stack tables of equal kind; otherwise every table is a stack of its own.
        minibatching: Whether batches are encoded, looked up and updated with
            ``enable_minibatching=True``; buffers may then be larger than full partitions need.
        activation_mem_bytes_limit: See `auto_stack_tables`.

    Raises:
        SpecError: If the specs are inconsistent, or a feature's samples cannot be divided over the
            SparseCores.
    """
    specs = _fresh(feature_specs)
    features: list[FeatureSpec] = tree_leaves(specs)
    if not features:
        raise SpecError("there are no features to plan for; give at least one")
    get_table_specs(specs)  # refuses features of one name
    for feature in features:
        _check_samples(feature, topology, batch_size)
    if stack:
        auto_stack_tables(
            specs,
            topology.devices,
            topology.sparsecores_per_device,
            activation_mem_bytes_limit=activation_mem_bytes_limit,
        )
    prepare_feature_specs_for_training(specs, topology.devices, topology.sparsecores_per_device)

    members: dict[str, list[FeatureSpec]] = defaultdict(list)
    for feature in features:
        members[feature.table_spec.stacked_table_spec.stack_name].append(feature)
    given = dict(limits or {})
    if unknown := given.keys() - members.keys():
        raise SpecError(
            f"limits name {name_list(unknown)}, but the stacks are {name_list(members)}; "
            "use the stacks' names"
        )
    return EmbeddingPlan(
        topology=topology,
        batch_size=batch_size,
        tables=tuple(
            table_plan(table)
            for _, table in sorted({f.table_spec.name: f.table_spec for f in features}.items())
        ),
        features=tuple(
            feature_plan(feature, feature.id_transformation.row_offset)
            for feature in sorted(features, key=lambda feature: feature.name)
        ),
        stacks=tuple(
            stack_plan(members[name], topology, given.get(name), minibatching=minibatching)
            for name in sorted(members)
        ),
        version=version,
        minibatching=minibatching,
    )


def apply_plan(plan: EmbeddingPlan, feature_specs: Nested[FeatureSpec]) -> Nested[FeatureSpec]:
    """Fresh specs, in the structure given, with the plan's placement and limits filled in.

    Args:
        plan: The plan, usually one that came from the driver.
        feature_specs: The features it was made from; they are not changed.

    Raises:
        SpecError: If the specs are not those the plan was made from; the message names what
            differs.
    """
    specs = _fresh(feature_specs)
    features: list[FeatureSpec] = tree_leaves(specs)
    planned = {feature.name: feature for feature in plan.features}
    _same("features", planned.keys(), {f.name for f in features})
    tables = {f.table_spec.name: f.table_spec for f in features}
    _same("tables", {table.name for table in plan.tables}, tables.keys())
    for name, table in tables.items():
        _same_fields(f"table '{name}'", plan.table(name), table_plan(table))

    num_sc = plan.topology.sparsecores
    placed: dict[str, tuple[StackPlan, TablePlacement]] = {
        placement.table: (stack, placement) for stack in plan.stacks for placement in stack.tables
    }
    for name, table in tables.items():
        stack, placement = placed[name]
        # The first table's, so that all tables of a stack hold one and the same stack.
        optimizer = tables[stack.tables[0].table].optimizer
        table.setting_in_stack = TableSettingInStack(
            stack_name=stack.name,
            padded_vocab_size=placement.padded_vocab_size,
            padded_embedding_dim=stack.width,
            row_offset_in_shard=placement.row_offset_in_shard,
            shard_rotation=placement.shard_rotation,
        )
        table.stacked_table_spec = StackedTableSpec(
            stack_name=stack.name,
            stack_vocab_size=stack.vocab_size,
            stack_embedding_dim=stack.width,
            optimizer=optimizer,
            combiner=table.combiner,
            total_sample_count=stack.total_sample_count,
            max_ids_per_partition=stack.limits.max_ids_per_partition,
            max_unique_ids_per_partition=stack.limits.max_unique_ids_per_partition,
            suggested_coo_buffer_size_per_device=stack.limits.buffer_size_per_device,
            quantization_config=table.quantization_config,
            unpadded_embedding_dim=table.embedding_dim if optimizer.mixes_columns else None,
        )
    for feature in features:
        mine = planned[feature.name]
        _, placement = placed[feature.table_spec.name]
        _same_fields(f"feature '{feature.name}'", mine, feature_plan(feature, mine.row_offset))
        feature.id_transformation = FeatureIdTransformation(
            row_offset=mine.row_offset,
            col_offset=placement.row_offset_in_shard * num_sc,
            col_shift=placement.shard_rotation,
        )
    return specs


def _fresh(feature_specs: Nested[FeatureSpec]) -> Nested[FeatureSpec]:
    """Copies of all features and tables, without stacking; a table shared stays shared."""
    tables: dict[str, TableSpec] = {}

    def table_of(feature: FeatureSpec) -> TableSpec:
        given = feature.table_spec
        if given.name not in tables:
            tables[given.name] = dataclasses.replace(
                given, _stacked_table_spec=None, _setting_in_stack=None
            )
        elif tables[given.name] != given:
            raise SpecError(
                f"table '{given.name}' of feature '{feature.name}' is defined twice with "
                "different settings; share one TableSpec or rename one"
            )
        return tables[given.name]

    return jax.tree.map(
        lambda feature: dataclasses.replace(
            feature, table_spec=table_of(feature), _id_transformation=None
        ),
        feature_specs,
    )


def _check_samples(feature: FeatureSpec, topology: Topology, batch_size: int) -> None:
    samples = sample_count(feature)
    if samples % batch_size:
        raise SpecError(
            f"feature '{feature.name}': its output_shape {tuple(feature.output_shape)} has "
            f"{samples} samples, which is no multiple of the batch size {batch_size}; "
            "make its first size the global batch size (times the sequence length)"
        )
    if samples % topology.sparsecores:
        raise SpecError(
            f"feature '{feature.name}': {samples} samples cannot be divided over "
            f"{topology.sparsecores} SparseCores; make the batch size a multiple of "
            f"{topology.sparsecores}"
        )
    if int(feature.output_shape[-1]) > feature.table_spec.embedding_dim:
        raise SpecError(
            f"feature '{feature.name}': its output has {feature.output_shape[-1]} columns, but "
            f"table '{feature.table_spec.name}' has {feature.table_spec.embedding_dim}; "
            f"make it at most {feature.table_spec.embedding_dim}"
        )


def table_plan(table: TableSpec) -> TablePlan:
    """What a plan says of a table."""
    quantization = table.quantization_config
    return TablePlan(
        name=table.name,
        vocabulary_size=int(table.vocabulary_size),
        embedding_dim=int(table.embedding_dim),
        combiner=table.combiner,
        optimizer=json.dumps(table.optimizer.describe(), sort_keys=True),
        quantization=None if quantization is None else quantization.as_tuple(),
    )


def feature_plan(feature: FeatureSpec, row_offset: int) -> FeaturePlan:
    """What a plan says of a feature whose first sample in its stack is ``row_offset``."""
    return FeaturePlan(
        name=feature.name,
        table=feature.table_spec.name,
        valency=feature_valency(feature),
        samples=sample_count(feature),
        output_dim=int(feature.output_shape[-1]),
        row_offset=row_offset,
    )


def stack_plan(
    features: list[FeatureSpec],
    topology: Topology,
    given: Limits | None,
    *,
    minibatching: bool = False,
) -> StackPlan:
    """What a plan says of the stack that placed features are in; None for its largest limits."""
    spec = features[0].table_spec.stacked_table_spec
    maximum = theoretical_limits(features, topology.sparsecores, topology.sparsecores_per_device)
    limits = maximum if given is None else given.fitted(topology, minibatching=minibatching)
    settings = {f.table_spec.name: f.table_spec.setting_in_stack for f in features}
    return StackPlan(
        name=spec.stack_name,
        tables=tuple(
            TablePlacement(
                table=name,
                row_offset_in_shard=setting.row_offset_in_shard,
                shard_rotation=setting.shard_rotation,
                padded_vocab_size=setting.padded_vocab_size,
            )
            for name, setting in sorted(
                settings.items(), key=lambda item: item[1].row_offset_in_shard
            )
        ),
        vocab_size=spec.stack_vocab_size,
        width=spec.stack_embedding_dim,
        total_sample_count=spec.total_sample_count,
        limits=limits,
        maximum=maximum,
        memory=estimate_memory(
            spec,
            {f.table_spec.name: f.table_spec for f in features}.values(),
            limits,
            topology,
            minibatching=minibatching,
        ),
    )


def _same(what: str, planned: Set[str], given: Set[str]) -> None:
    if planned != given:
        raise SpecError(
            f"the specs do not match the plan: the plan has {what} {name_list(planned - given)} "
            f"that the specs lack, the specs have {name_list(given - planned)} that the plan "
            "lacks; build a plan from these specs"
        )


def _same_fields[T: (TablePlan, FeaturePlan)](what: str, planned: T, given: T) -> None:
    for item in dataclasses.fields(planned):
        mine, theirs = getattr(planned, item.name), getattr(given, item.name)
        if mine != theirs:
            raise SpecError(
                f"the specs do not match the plan: {what} has {item.name} {theirs!r}, but the "
                f"plan has {mine!r}; build a plan from these specs"
            )
