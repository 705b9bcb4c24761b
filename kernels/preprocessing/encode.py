"""Preprocessing: from the ids of a batch to the CSR-wrapped COO buffers, in numpy.

Per stack, every id becomes one int64 key

    | local SparseCore | SparseCore asked | local row | sample | (position) |

so that one sort does all of partitioning, ordering and grouping duplicates. The position is added
only when ids have gains of their own, to find them again and to add them in input order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from kernels.errors import LimitsExceeded, Overflow, SpecError
from kernels.preprocessing.flatten import FlatFeature, flatten_feature
from kernels.preprocessing.format import (
    PreprocessedInput,
    SparseDenseMatmulInput,
    SparseDenseMatmulInputStats,
    check_sharding_strategy,
)
from kernels.preprocessing.pack import EncodedStack, KeyLayout, ProcessShape, pack
from kernels.specs import FeatureSpec, Nested
from kernels.utils import check_num_sparsecores

__all__ = ["preprocess_sparse_dense_matmul_input"]

_KEY_BITS = 62  # above them, the sign and a bit that only padding sets
_PADDING_KEY = np.int64(2**63 - 1)


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
    all_reduce_interface: Any | None = None,
) -> tuple[PreprocessedInput, SparseDenseMatmulInputStats]:
    """Turn this process's share of a batch into the buffers lookup and update read.

    Host code: call it outside `jax.jit`. The layout is drawn in `kernels.preprocessing.format`.

    Args:
        features: In the structure of ``feature_specs``, the ids of this process's samples:
            ``[samples, valency]`` int32 or int64, where negative ids are padding, or ragged: a
            list or object array of one integer array per sample.
        features_weights: The gains, shaped like the ids; None counts every id as 1.
        feature_specs: Stacked features: what `apply_plan` returns.
        local_device_count: Devices of this process.
        global_device_count: Devices of the mesh.
        num_sc_per_device: SparseCores of a device; None asks the first device.
        sharding_strategy: Only ``MOD``.
        has_leading_dimension: Shape ``[local devices, n]`` instead of ``[local devices * n]``.
        allow_id_dropping: Leave out and count the ids that exceed a limit.
        batch_number: Not used here; names the batch in traces of other backends.
        enable_minibatching: Not available in this backend.
        all_reduce_interface: Only for minibatching.

    Returns:
        The buffers, as numpy arrays, and what the batch needed.

    Raises:
        LimitsExceeded: If the batch does not fit and ``allow_id_dropping`` is off.
        SpecError: If an id is out of range, shapes are wrong, or the specs are not stacked.

    Example:
        >>> batch, stats = preprocess_sparse_dense_matmul_input(
        ...     {"user": np.array([[3], [7]])}, None, specs,
        ...     local_device_count=1, global_device_count=1, num_sc_per_device=1)
    """
    del batch_number, all_reduce_interface
    check_sharding_strategy(sharding_strategy)
    if enable_minibatching:
        raise SpecError(
            "enable_minibatching=True: minibatching is not available in the numpy preprocessing; "
            "pass enable_minibatching=False and raise the limits, which "
            "EmbeddingPlan.with_raised_limits does from the statistics"
        )
    if local_device_count < 1 or global_device_count % local_device_count:
        raise SpecError(
            f"local_device_count {local_device_count} does not divide global_device_count "
            f"{global_device_count}; pass mesh.local_mesh.size and mesh.size"
        )
    per_device = check_num_sparsecores(num_sc_per_device)
    shape = ProcessShape(local_device_count, global_device_count, per_device)

    stacks: dict[str, list[FlatFeature]] = defaultdict(list)
    for spec, ids, gains in _aligned(features, features_weights, feature_specs):
        flat = flatten_feature(spec, ids, gains)
        _check_samples(flat, shape)
        stacks[spec.table_spec.stacked_table_spec.stack_name].append(flat)

    arrays: dict[str, EncodedStack] = {}
    overflows: list[Overflow] = []
    for name, members in stacks.items():
        try:
            arrays[name] = _encode_stack(members, shape, allow_id_dropping)
        except LimitsExceeded as error:
            overflows += error.overflows
    if overflows:
        raise LimitsExceeded(overflows)
    rows = (local_device_count, -1) if has_leading_dimension else (-1,)
    minibatches = np.ones(local_device_count, dtype=np.int32)
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


def _aligned(
    features: Nested[Any], weights: Nested[Any] | None, specs: Nested[FeatureSpec]
) -> list[tuple[FeatureSpec, Any, Any]]:
    """(spec, ids, gains) of every feature."""
    leaves, structure = jax.tree.flatten(specs)
    columns = []
    for name, tree in (("features", features), ("features_weights", weights)):
        if tree is None:
            columns.append([None] * len(leaves))
            continue
        try:
            columns.append(structure.flatten_up_to(tree))
        except (ValueError, TypeError, KeyError) as error:
            raise SpecError(
                f"{name} must have the structure of feature_specs ({structure}): {error}"
            ) from error
    return list(zip(leaves, columns[0], columns[1], strict=True))


def _check_samples(feature: FlatFeature, shape: ProcessShape) -> None:
    expected = int(np.prod(feature.spec.output_shape[:-1])) * shape.local_devices // shape.devices
    if feature.samples != expected:
        raise SpecError(
            f"feature '{feature.spec.name}': {feature.samples} samples on this process, but its "
            f"output_shape {tuple(feature.spec.output_shape)} means {expected} on "
            f"{shape.local_devices} of {shape.devices} devices; give {expected}"
        )
    if feature.samples % shape.sources:
        raise SpecError(
            f"feature '{feature.spec.name}': {feature.samples} samples cannot be divided over "
            f"{shape.sources} SparseCores; make it a multiple of them"
        )


def _encode_stack(members: Sequence[FlatFeature], shape: ProcessShape, drop: bool) -> EncodedStack:
    stack = members[0].spec.table_spec.stacked_table_spec
    samples = stack.total_sample_count // shape.sparsecores
    layout = KeyLayout(
        sample_bits=max(samples - 1, 0).bit_length(),
        row_bits=(stack.stack_vocab_size // shape.sparsecores - 1).bit_length(),
        partitions=shape.sources * shape.sparsecores,
    )
    if layout.bits > _KEY_BITS:
        raise SpecError(
            f"stack '{stack.stack_name}': {shape.sources} local SparseCores, {shape.sparsecores} "
            f"in all, {stack.stack_vocab_size} rows and {samples} samples need {layout.bits} bits "
            "of a 62-bit key; split the stack or use more processes"
        )
    keys, gains = _sorted(_keys(members, shape, layout), members, shape, layout, samples)
    keys, gains, ids_per_entry = _merged(keys, gains)
    return pack(keys, gains, ids_per_entry, stack, shape, layout, drop)


def _keys(members: Sequence[FlatFeature], shape: ProcessShape, layout: KeyLayout) -> np.ndarray:
    """One key per id; padding has the largest."""
    keys = np.empty(sum(feature.ids.size for feature in members), dtype=np.int64)
    done = 0
    for feature in members:
        size = feature.ids.size
        out = keys[done : done + size]
        done += size
        where = feature.spec.id_transformation
        s = shape.sparsecores
        row = feature.ids // s
        asked = feature.ids - row * s
        if where.col_shift:
            asked += where.col_shift
            asked[asked >= s] -= s
        out[:] = asked
        out <<= layout.row_bits
        out += row
        out += where.col_offset // s
        out <<= layout.sample_bits
        per_source = feature.samples // shape.sources
        number = np.arange(feature.samples, dtype=np.int64)
        source = number // per_source if per_source else number
        of_sample = source * s << layout.partition_shift
        of_sample += number - source * per_source + where.row_offset // s
        if isinstance(feature.lengths, int):
            out.reshape(feature.samples, feature.lengths)[:] += of_sample[:, None]
        else:
            out += np.repeat(of_sample, feature.lengths)
        if feature.has_padding:
            out[feature.ids < 0] = _PADDING_KEY
    return keys


def _sorted(
    keys: np.ndarray,
    members: Sequence[FlatFeature],
    shape: ProcessShape,
    layout: KeyLayout,
    samples: int,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Sorted keys without padding, and their gains (None: all 1)."""
    valid = keys.size
    if any(feature.has_padding for feature in members):
        valid -= int(sum(np.count_nonzero(feature.ids < 0) for feature in members))
    given = [feature.gains for feature in members if feature.gains is not None]
    if given:
        gains = np.concatenate(given)
        position_bits = keys.size.bit_length()
        if layout.bits + position_bits <= _KEY_BITS:
            # Padding keeps the largest key: its overflowing bits do not matter.
            padding = keys == _PADDING_KEY if valid < keys.size else None
            keys <<= position_bits
            keys += np.arange(keys.size)
            if padding is not None:
                keys[padding] = _PADDING_KEY
            keys.sort()
            keys = keys[:valid]
            gains = gains[keys & ((1 << position_bits) - 1)]
            return keys >> position_bits, gains
        order = np.argsort(keys, kind="stable")[:valid]
        return keys[order], gains[order]
    keys.sort()
    keys = keys[:valid]
    if all(feature.gain_of_sample is None for feature in members):
        return keys, None
    # No gains were given: an id's gain follows from its sample.
    table = np.ones((shape.sources, samples), dtype=np.float32)
    for feature in members:
        first = feature.spec.id_transformation.row_offset // shape.sparsecores
        count = feature.samples // shape.sources
        if feature.gain_of_sample is not None:
            table[:, first : first + count] = feature.gain_of_sample.reshape(shape.sources, count)
    source = (keys >> layout.partition_shift) // shape.sparsecores
    return keys, table[source, keys & ((1 << layout.sample_bits) - 1)]


def _merged(
    keys: np.ndarray, gains: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Equal keys become one, their gains added in order; and ids per entry (None: all 1)."""
    is_first = np.empty(keys.size, dtype=bool)
    is_first[:1] = True
    np.not_equal(keys[1:], keys[:-1], out=is_first[1:])
    if is_first.all():
        ones = np.ones(keys.size, dtype=np.float32) if gains is None else gains
        return keys, ones, None
    first = np.flatnonzero(is_first)
    count = np.diff(first, append=keys.size)
    if gains is None:
        return keys[first], count.astype(np.float32), count
    total = gains[first]
    # One pass per further duplicate: float32 sums in input order, as a plain loop would do.
    for further in range(1, int(count.max())):
        more = np.flatnonzero(count > further)
        total[more] += gains[first[more] + further]
    return keys[first], total, count
