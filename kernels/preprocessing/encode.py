"""Preprocessing for its users: check the arguments, run an engine, wrap its buffers."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from kernels.errors import EmberayError, SpecError
from kernels.preprocessing.encoded import Encoded, ProcessShape
from kernels.preprocessing.engine import select_engine
from kernels.preprocessing.format import (
    PreprocessedInput,
    SparseDenseMatmulInput,
    SparseDenseMatmulInputStats,
    check_sharding_strategy,
)
from kernels.preprocessing.inputs import FeatureInput, gather_inputs, gather_sparse_inputs
from kernels.preprocessing.minibatching import AllReduceInterface, Minibatching
from kernels.specs import FeatureIdTransformation, FeatureSpec, Nested
from kernels.utils import check_num_sparsecores

__all__ = [
    "preprocess_sparse_dense_matmul_input",
    "preprocess_sparse_dense_matmul_input_from_sparse_tensor",
]

_MOST_SAMPLES = 2**26 - 1  # of a device and stack, as in jax-tpu-embedding


def preprocess_sparse_dense_matmul_input(
    features: Nested[Any],
    features_weights: Nested[Any] | None,
    feature_specs: Nested[FeatureSpec],
    local_device_count: int,
    global_device_count: int,
    *,
    num_sc_per_device: int | None = None,
    sharding_strategy: str = "MOD",
    has_leading_dimension: bool = False,
    allow_id_dropping: bool = False,
    batch_number: int = 0,
    enable_minibatching: bool = False,
    all_reduce_interface: AllReduceInterface | None = None,
) -> tuple[PreprocessedInput, SparseDenseMatmulInputStats]:
    """Turn this process's share of a batch into the buffers lookup and update read.

    Host code: call it outside `jax.jit`. The layout is drawn in `kernels.preprocessing.format`,
    that with minibatching in `kernels.preprocessing.minibatching`.

    Args:
        features: In the structure of ``feature_specs``, the ids of this process's samples:
            ``[samples, valency]`` int32 or int64; an Arrow ``ListArray``, ``LargeListArray`` or
            ``FixedSizeListArray`` (read in place); or ragged: a list or object array of one
            integer array per sample. The id -1 is padding.
        features_weights: The gains, in the form of the ids; None counts every id as 1.
        feature_specs: Stacked features: what `apply_plan` returns.
        local_device_count: Devices of this process.
        global_device_count: Devices of the mesh.
        num_sc_per_device: SparseCores of a device; None asks the first device.
        sharding_strategy: Only ``MOD``.
        has_leading_dimension: Shape ``[local devices, n]`` instead of ``[local devices * n]``.
        allow_id_dropping: Leave out and count the ids that exceed a limit.
        batch_number: With minibatching: the same on every process, counting batches up.
        enable_minibatching: Look a batch that exceeds its limits up in several rounds.
        all_reduce_interface: With minibatching and several processes: their link, from
            `get_all_reduce_interface`.

    Returns:
        The buffers, as numpy arrays, and what the batch needed.

    Raises:
        LimitsExceeded: If the batch does not fit and ``allow_id_dropping`` is off.
        SpecError: If an id is out of range, a gain is not finite, shapes are wrong, or the specs
            are not stacked.
        AllReduceError: If the other processes cannot be reached, or do not come in time.

    Example:
        >>> batch, stats = preprocess_sparse_dense_matmul_input(
        ...     {"user": np.array([[3], [7]])}, None, specs,
        ...     local_device_count=1, global_device_count=1, num_sc_per_device=1)
    """
    check_sharding_strategy(sharding_strategy)
    shape = _process_shape(local_device_count, global_device_count, num_sc_per_device)
    minibatching = _minibatching(shape, enable_minibatching, all_reduce_interface, batch_number)
    with _others_told_of_errors(minibatching):
        inputs = gather_inputs(features, features_weights, feature_specs)
        encoded = _encode(inputs, shape, allow_id_dropping, minibatching)
    return _wrap(encoded, local_device_count, has_leading_dimension)


def preprocess_sparse_dense_matmul_input_from_sparse_tensor(
    indices: Nested[Any],
    values: Nested[Any],
    dense_shapes: Nested[Any],
    feature_specs: Nested[FeatureSpec],
    local_device_count: int,
    global_device_count: int,
    *,
    num_sc_per_device: int | None = None,
    sharding_strategy: str = "MOD",
    has_leading_dimension: bool = False,
    allow_id_dropping: bool = False,
    batch_number: int = 0,
    enable_minibatching: bool = False,
    all_reduce_interface: AllReduceInterface | None = None,
) -> tuple[PreprocessedInput, SparseDenseMatmulInputStats]:
    """Turn this process's share of a batch, as sparse tensors, into buffers; every gain is 1.

    Args:
        indices: In the structure of ``feature_specs``: ``[n, 2]`` int64, (sample, position), with
            samples ascending. Positions say nothing here.
        values: Likewise: ``[n]`` int32 or int64, the ids. The id -1 is padding.
        dense_shapes: Likewise: ``[2]``, (samples of this process, valency).
        feature_specs: Stacked features: what `apply_plan` returns.
        local_device_count: Devices of this process.
        global_device_count: Devices of the mesh.
        num_sc_per_device: SparseCores of a device; None asks the first device.
        sharding_strategy: Only ``MOD``.
        has_leading_dimension: Shape ``[local devices, n]`` instead of ``[local devices * n]``.
        allow_id_dropping: Leave out and count the ids that exceed a limit.
        batch_number: With minibatching: the same on every process, counting batches up.
        enable_minibatching: Look a batch that exceeds its limits up in several rounds.
        all_reduce_interface: With minibatching and several processes: their link.

    Returns:
        As `preprocess_sparse_dense_matmul_input`, which also lists the errors.

    Example:
        Sample 0 holds the ids 3 and 7, sample 1 the id 5:

        >>> batch, stats = preprocess_sparse_dense_matmul_input_from_sparse_tensor(
        ...     {"user": np.array([[0, 0], [0, 1], [1, 0]])}, {"user": np.array([3, 7, 5])},
        ...     {"user": np.array([2, 2])}, specs,
        ...     local_device_count=1, global_device_count=1, num_sc_per_device=1)
    """
    check_sharding_strategy(sharding_strategy)
    shape = _process_shape(local_device_count, global_device_count, num_sc_per_device)
    minibatching = _minibatching(shape, enable_minibatching, all_reduce_interface, batch_number)
    with _others_told_of_errors(minibatching):
        inputs = gather_sparse_inputs(indices, values, dense_shapes, feature_specs)
        encoded = _encode(inputs, shape, allow_id_dropping, minibatching)
    return _wrap(encoded, local_device_count, has_leading_dimension)


def _process_shape(
    local_device_count: int, global_device_count: int, num_sc_per_device: int | None
) -> ProcessShape:
    if local_device_count < 1 or global_device_count % local_device_count:
        raise SpecError(
            f"local_device_count {local_device_count} does not divide global_device_count "
            f"{global_device_count}; pass mesh.local_mesh.size and mesh.size"
        )
    per_device = check_num_sparsecores(num_sc_per_device)
    return ProcessShape(local_device_count, global_device_count, per_device)


def _minibatching(
    shape: ProcessShape, enabled: bool, link: AllReduceInterface | None, batch_number: int
) -> Minibatching | None:
    if not enabled:
        return None
    if link is None and shape.local_devices < shape.devices:
        raise SpecError(
            "all_reduce_interface must be provided when minibatching is enabled for multi-host: "
            f"this process has {shape.local_devices} of {shape.devices} devices; make one with "
            "get_all_reduce_interface and pass it"
        )
    return Minibatching(link, batch_number)


def _encode(
    inputs: Sequence[FeatureInput],
    shape: ProcessShape,
    allow_id_dropping: bool,
    minibatching: Minibatching | None,
) -> Encoded:
    stacks: dict[str, list[FeatureInput]] = {}
    for given in inputs:
        _check_samples(given, shape)
        name = given.spec.table_spec.stacked_table_spec.stack_name
        stacks.setdefault(name, []).append(given)
    for name, members in stacks.items():
        if len(members) == 1 and not members[0].spec.is_placed():
            # A stack made by hand, of one feature: that can only lie at its beginning.
            placed = dataclasses.replace(
                members[0].spec, _id_transformation=FeatureIdTransformation()
            )
            members[0] = members[0]._replace(spec=placed)
        samples = sum(given.samples for given in members) // shape.local_devices
        if samples > _MOST_SAMPLES:
            raise SpecError(
                f"stack '{name}': {samples} samples per device: the total local batch size "
                "exceeds the maximum limit supported by the SparseCore CooFormat sorting key "
                f"({_MOST_SAMPLES}); use smaller batches, or more devices"
            )
    return select_engine().encode(
        stacks, shape, allow_id_dropping=allow_id_dropping, minibatching=minibatching
    )


@contextlib.contextmanager
def _others_told_of_errors(minibatching: Minibatching | None) -> Iterator[None]:
    """Let the processes that wait for this one know of its error, and raise it."""
    try:
        yield
    except Exception:
        if minibatching is not None:
            # Whether they hear it matters less than the error itself.
            with contextlib.suppress(EmberayError):
                minibatching.give_up()
        raise


def _check_samples(given: FeatureInput, shape: ProcessShape) -> None:
    local, devices = shape.local_devices, shape.devices
    expected = math.prod(given.spec.output_shape[:-1]) * local // devices
    if given.samples not in (expected, given.spec.input_shape[0] * local // devices):
        raise SpecError(
            f"feature '{given.spec.name}': {given.samples} samples on this process, but its "
            f"output_shape {tuple(given.spec.output_shape)} means {expected} on "
            f"{local} of {devices} devices; give {expected}"
        )
    if given.samples % shape.sources:
        raise SpecError(
            f"feature '{given.spec.name}': {given.samples} samples cannot be divided over "
            f"{shape.sources} SparseCores; make it a multiple of them"
        )


def _wrap(
    encoded: Encoded, local_devices: int, has_leading_dimension: bool
) -> tuple[PreprocessedInput, SparseDenseMatmulInputStats]:
    rows = (local_devices, -1) if has_leading_dimension else (-1,)
    arrays = encoded.stacks
    minibatches = np.full(local_devices, encoded.num_minibatches, dtype=np.int32)
    batch = PreprocessedInput(
        SparseDenseMatmulInput(
            {name: a.row_pointers.reshape(rows) for name, a in arrays.items()},
            {name: a.embedding_ids.reshape(rows) for name, a in arrays.items()},
            {name: a.sample_ids.reshape(rows) for name, a in arrays.items()},
            {name: a.gains.reshape(rows) for name, a in arrays.items()},
        ),
        minibatches[:, None] if has_leading_dimension else minibatches,
    )
    stats = SparseDenseMatmulInputStats(
        {name: a.max_ids for name, a in arrays.items()},
        {name: a.max_unique_ids for name, a in arrays.items()},
        {name: a.required_buffer for name, a in arrays.items()},
        {name: a.dropped for name, a in arrays.items()},
    )
    return batch, stats
