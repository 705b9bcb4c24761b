"""The last step before training: tables that are in no stack become stacks of their own."""

from __future__ import annotations

from collections import defaultdict

from kernels.errors import SpecError
from kernels.planning.stacking import round_up_dim_and_vocab_size, sample_count
from kernels.specs import (
    FeatureIdTransformation,
    FeatureSpec,
    Nested,
    StackedTableSpec,
    TableSettingInStack,
)
from kernels.utils import check_num_sparsecores, tree_leaves

__all__ = ["prepare_feature_specs_for_training"]


def prepare_feature_specs_for_training(
    feature_specs: Nested[FeatureSpec],
    global_device_count: int,
    num_sc_per_device: int | None = None,
) -> None:
    """Make every table that is in no stack a stack of its own, in place.

    Features that share such a table are placed one after another, in order of their names. That
    names are not used twice is checked when the stacks are asked for: `get_stacked_table_specs`.

    Args:
        feature_specs: The features; those already stacked are left as they are.
        global_device_count: Devices of the mesh.
        num_sc_per_device: SparseCores of a device; None asks the first device.

    Raises:
        SpecError: If a table says it is in a stack it is not in.
    """
    num_sc = check_num_sparsecores(num_sc_per_device) * global_device_count
    by_table: dict[str, list[FeatureSpec]] = defaultdict(list)
    for feature in tree_leaves(feature_specs):
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
                    f"Invalid stacking: table '{name}' names stack "
                    f"'{table.setting_in_stack.stack_name}' but is not in it; make a new TableSpec "
                    "without _setting_in_stack"
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
                unpadded_embedding_dim=(
                    table.embedding_dim if table.optimizer.mixes_columns else None
                ),
            )
            feature.id_transformation = FeatureIdTransformation(row_offset=row_offset)
            row_offset += sample_count(feature)
