"""A plan read off specs that are placed already, and specs made again from a plan.

    placed specs ──plan_of_placed──► EmbeddingPlan ──specs_of_plan──► specs, not placed

For specs that `stack_tables`, `auto_stack_tables` or `prepare_feature_specs_for_training` placed,
rather than a plan: a plan's JSON then says how their arrays lie, for example in a checkpoint.
"""

from __future__ import annotations

import json
from collections import defaultdict

import jax

from kernels.errors import SpecError
from kernels.optimizers import optimizer_from_description
from kernels.planning.build import feature_plan, stack_plan, table_plan
from kernels.planning.limits import ALIGNMENT, Limits
from kernels.planning.plan import EmbeddingPlan, FeaturePlan
from kernels.planning.stacking import get_table_specs, sample_count
from kernels.planning.topology import Topology
from kernels.specs import FeatureSpec, Nested, QuantizationConfig, StackedTableSpec, TableSpec
from kernels.utils import round_up, tree_leaves

__all__ = ["plan_of_placed", "specs_of_plan"]


def plan_of_placed(feature_specs: Nested[FeatureSpec], topology: Topology) -> EmbeddingPlan:
    """The plan that specs are placed by.

    Its batch size is the least number of samples a feature has; its limits are those of the specs.

    Args:
        feature_specs: Stacked features; they are not changed.
        topology: The mesh they were stacked for.

    Raises:
        SpecError: If a table has not been stacked, or was stacked for other SparseCores.
    """
    tables = get_table_specs(feature_specs)
    features: list[FeatureSpec] = tree_leaves(feature_specs)
    if not features:
        raise SpecError("there are no features to read a plan off; give at least one")
    members: dict[str, list[FeatureSpec]] = defaultdict(list)
    for feature in features:
        members[feature.table_spec.stacked_table_spec.stack_name].append(feature)
    for table in tables.values():
        _check_padding(table, topology)
    return EmbeddingPlan(
        topology=topology,
        batch_size=min(sample_count(feature) for feature in features),
        tables=tuple(table_plan(tables[name]) for name in sorted(tables)),
        features=tuple(
            feature_plan(feature, feature.id_transformation.row_offset)
            for feature in sorted(features, key=lambda feature: feature.name)
        ),
        stacks=tuple(
            stack_plan(mine, topology, _limits(mine[0].table_spec.stacked_table_spec, topology))
            for _, mine in sorted(members.items())
        ),
    )


def _check_padding(table: TableSpec, topology: Topology) -> None:
    padded = table.setting_in_stack.padded_vocab_size
    wanted = round_up(table.vocabulary_size, ALIGNMENT * topology.sparsecores)
    if padded != wanted:
        raise SpecError(
            f"table '{table.name}' was stacked with {padded} rows, but {topology.devices} devices "
            f"of {topology.sparsecores_per_device} SparseCores need {wanted}; pass the devices and "
            "SparseCores the specs were stacked for"
        )


def _limits(stack: StackedTableSpec, topology: Topology) -> Limits:
    """Those of a stack; without a buffer size, the largest buffer the others allow."""
    all_partitions = topology.sparsecores * topology.sparsecores_per_device
    full = round_up(stack.max_ids_per_partition, ALIGNMENT) * all_partitions
    return Limits(
        max_ids_per_partition=stack.max_ids_per_partition,
        max_unique_ids_per_partition=stack.max_unique_ids_per_partition,
        buffer_size_per_device=stack.suggested_coo_buffer_size_per_device or full,
    )


def specs_of_plan(plan: EmbeddingPlan, batch_size: int | None = None) -> list[FeatureSpec]:
    """The features of a plan, not placed: fit to be stacked anew, not to be trained with.

    Tables begin at 0, and functions in optimizers are placeholders, as a plan holds neither.

    Args:
        plan: The plan.
        batch_size: Another number of samples in a batch; None keeps the plan's.

    Returns:
        In order of their place among the samples of their stack, stack by stack in order of the
        tables, so that stacking them again keeps the order, and with it the stacks' names.

    Raises:
        SpecError: If an optimizer is not one of this package's, or the batch size does not fit.
    """
    tables = {
        table.name: TableSpec(
            name=table.name,
            vocabulary_size=table.vocabulary_size,
            embedding_dim=table.embedding_dim,
            initializer=jax.nn.initializers.zeros,
            optimizer=optimizer_from_description(json.loads(table.optimizer)),
            combiner=table.combiner,
            quantization_config=_quantization(table.quantization),
        )
        for table in plan.tables
    }
    order = [place.table for stack in plan.stacks for place in stack.tables]
    features = sorted(
        plan.features, key=lambda feature: (order.index(feature.table), feature.row_offset)
    )
    return [_spec(feature, tables[feature.table], plan, batch_size) for feature in features]


def _spec(
    feature: FeaturePlan, table: TableSpec, plan: EmbeddingPlan, batch_size: int | None
) -> FeatureSpec:
    samples = feature.samples
    if batch_size is not None:
        samples, rest = divmod(samples * batch_size, plan.batch_size)
        if rest:
            raise SpecError(
                f"feature '{feature.name}' has {feature.samples} samples in a batch of "
                f"{plan.batch_size}, which is no whole number in one of {batch_size}; give another"
            )
    return FeatureSpec(
        name=feature.name,
        table_spec=table,
        input_shape=(samples,) if feature.valency is None else (samples, feature.valency),
        output_shape=(samples, feature.output_dim),
    )


def _quantization(values: tuple[float, float, int] | None) -> QuantizationConfig | None:
    if values is None:
        return None
    low, high, buckets = values
    return QuantizationConfig(min_value=low, max_value=high, num_buckets=buckets)
