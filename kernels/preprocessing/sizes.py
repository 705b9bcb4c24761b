"""The sizes of the buffers, known before any id is."""

from __future__ import annotations

import jax
import numpy as np

from kernels.preprocessing.format import (
    PreprocessedInput,
    SparseDenseMatmulInput,
    buffer_size_per_device,
    row_pointers_per_sparsecore,
    theoretical_buffer_size_per_device,
)
from kernels.preprocessing.minibatching import BUCKETS
from kernels.specs import FeatureSpec, Nested
from kernels.utils import check_num_sparsecores, tree_leaves

__all__ = [
    "compute_coo_buffer_size_per_device",
    "compute_row_pointers_size_per_device",
    "compute_theoretical_max_coo_buffer_size",
    "eval_preprocess_sparse_dense_matmul_input_shape",
]


def compute_row_pointers_size_per_device(
    *,
    global_device_count: int,
    num_sc_per_device: int | None = None,
    enable_minibatching: bool = False,
) -> int:
    """Row pointers of one stack on one device: for each SparseCore (and minibatch) max(S, 8).

    Args:
        global_device_count: Devices of the mesh.
        num_sc_per_device: SparseCores of a device; None asks the first device.
        enable_minibatching: Whether there must be room for 64 minibatches.

    Example:
        >>> compute_row_pointers_size_per_device(global_device_count=4, num_sc_per_device=4)
        64
    """
    per_device = check_num_sparsecores(num_sc_per_device)
    pointers = row_pointers_per_sparsecore(global_device_count * per_device)
    return pointers * per_device * (BUCKETS if enable_minibatching else 1)


def compute_theoretical_max_coo_buffer_size(
    max_ids_per_partition: int,
    global_device_count: int,
    num_sc_per_device: int | None = None,
    enable_minibatching: bool = False,
) -> int:
    """Entries of a device's buffer when every partition (of every minibatch) is full.

    Args:
        max_ids_per_partition: The limit.
        global_device_count: Devices of the mesh.
        num_sc_per_device: SparseCores of a device; None asks the first device.
        enable_minibatching: Whether there must be room for 64 minibatches.

    Example:
        >>> compute_theoretical_max_coo_buffer_size(
        ...     100, global_device_count=2, num_sc_per_device=4)
        3328
    """
    per_device = check_num_sparsecores(num_sc_per_device)
    return theoretical_buffer_size_per_device(
        max_ids_per_partition,
        global_device_count * per_device,
        per_device,
        enable_minibatching=enable_minibatching,
    )


def compute_coo_buffer_size_per_device(
    feature_specs: Nested[FeatureSpec],
    global_device_count: int,
    num_sc_per_device: int | None = None,
    enable_minibatching: bool = False,
) -> dict[str, int]:
    """Entries of every stack's buffer on one device, by the name of the stack.

    As suggested by the stack, rounded up to 8 times the SparseCores of a device, and no more than
    can be used; without a suggestion, what full partitions need.

    Args:
        feature_specs: Stacked features.
        global_device_count: Devices of the mesh.
        num_sc_per_device: SparseCores of a device; None asks the first device.
        enable_minibatching: Whether there must be room for 64 minibatches.

    Raises:
        SpecError: If features are not stacked, or a buffer is too large for int32 positions.
    """
    per_device = check_num_sparsecores(num_sc_per_device)
    stacks = [spec.table_spec.stacked_table_spec for spec in tree_leaves(feature_specs)]
    return {
        stack.stack_name: buffer_size_per_device(
            stack,
            global_device_count * per_device,
            per_device,
            enable_minibatching=enable_minibatching,
        )
        for stack in stacks
    }


def eval_preprocess_sparse_dense_matmul_input_shape(
    feature_specs: Nested[FeatureSpec],
    local_device_count: int,
    global_device_count: int,
    *,
    num_sc_per_device: int | None = None,
    has_leading_dimension: bool = False,
    enable_minibatching: bool = False,
) -> PreprocessedInput:
    """What `preprocess_sparse_dense_matmul_input` returns, as shapes and dtypes.

    Args:
        feature_specs: Stacked features.
        local_device_count: Devices of this process.
        global_device_count: Devices of the mesh.
        num_sc_per_device: SparseCores of a device; None asks the first device.
        has_leading_dimension: Whether ``num_minibatches`` is ``[local devices, 1]``. The buffers
            are flat either way, as jax-tpu-embedding has them here.
        enable_minibatching: Whether there must be room for 64 minibatches.

    Returns:
        `jax.ShapeDtypeStruct` in place of every array.
    """
    sizes = compute_coo_buffer_size_per_device(
        feature_specs, global_device_count, num_sc_per_device, enable_minibatching
    )
    pointers = compute_row_pointers_size_per_device(
        global_device_count=global_device_count,
        num_sc_per_device=num_sc_per_device,
        enable_minibatching=enable_minibatching,
    )

    def flat(size: int, dtype: type[np.generic]) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((local_device_count * size,), dtype)

    minibatches = (local_device_count, 1) if has_leading_dimension else (local_device_count,)
    return PreprocessedInput(
        SparseDenseMatmulInput(
            {name: flat(pointers, np.int32) for name in sizes},
            {name: flat(size, np.int32) for name, size in sizes.items()},
            {name: flat(size, np.int32) for name, size in sizes.items()},
            {name: flat(size, np.float32) for name, size in sizes.items()},
        ),
        jax.ShapeDtypeStruct(minibatches, np.int32),
    )
