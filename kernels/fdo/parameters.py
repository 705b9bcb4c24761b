"""Limits of stacked specs, set to what has been observed."""

from __future__ import annotations

import numpy as np

from kernels.preprocessing.format import SparseDenseMatmulInputStats
from kernels.specs import FeatureSpec, Nested
from kernels.utils import check_num_sparsecores, tree_leaves

__all__ = ["update_preprocessing_parameters"]


def update_preprocessing_parameters(
    feature_specs: Nested[FeatureSpec],
    updated_params: SparseDenseMatmulInputStats,
    num_sc_per_device: int,
) -> None:
    """Set the limits of stacked features to the largest values of some statistics, in place.

    The values are taken as they are, smaller ones too: multiply them for headroom, or use plans,
    whose limits grow with headroom and never shrink (`EmbeddingPlan.with_raised_limits`). A
    compiled step does not notice the change, as specs are compared without their placement: trace
    it again.

    Args:
        feature_specs: Stacked features.
        updated_params: Statistics by stack, for example what `FDOClient.load` returned. A stack
            that is not in them keeps its limits.
        num_sc_per_device: SparseCores of a device.

    Raises:
        SpecError: If a feature's table has not been stacked.
    """
    sparsecores = check_num_sparsecores(num_sc_per_device)

    def largest(values: dict[str, np.ndarray], name: str, now: int) -> int:
        return max(int(np.max(values[name])), 1) if name in values else now

    for feature in tree_leaves(feature_specs):
        stack = feature.table_spec.stacked_table_spec
        name = stack.stack_name
        buffer = updated_params.get_required_buffer_size_per_device(name, sparsecores)
        feature.table_spec.stacked_table_spec = stack.replace(
            max_ids_per_partition=largest(
                updated_params.max_ids_per_partition, name, stack.max_ids_per_partition
            ),
            max_unique_ids_per_partition=largest(
                updated_params.max_unique_ids_per_partition,
                name,
                stack.max_unique_ids_per_partition,
            ),
            suggested_coo_buffer_size_per_device=(
                stack.suggested_coo_buffer_size_per_device if buffer is None else buffer
            ),
        )
