"""Limits: how much room a stack has for the ids of a batch.

A batch's shapes must be known before its ids are. So every partition (what one SparseCore asks of
one other) has room for ``max_ids_per_partition`` ids, of which ``max_unique_ids_per_partition``
differ, and a device's input buffer has ``buffer_size_per_device`` entries over all its partitions.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from kernels.errors import SpecError
from kernels.planning.stacking import sample_count
from kernels.planning.topology import Topology
from kernels.preprocessing.minibatching import BUCKETS
from kernels.specs import FeatureSpec
from kernels.utils import round_up

__all__ = [
    "ALIGNMENT",
    "Limits",
    "ObservedLimits",
    "feature_valency",
    "raise_limits",
    "round_to_size",
    "theoretical_limits",
]

ALIGNMENT = 8
"""Partitions start at multiples of this many entries."""


@dataclass(frozen=True)
class Limits:
    """Room for the ids of a batch in one stack."""

    max_ids_per_partition: int
    max_unique_ids_per_partition: int
    buffer_size_per_device: int
    """Entries of the input buffer of one device, over all its SparseCores."""

    def __post_init__(self) -> None:
        for what in (
            "max_ids_per_partition",
            "max_unique_ids_per_partition",
            "buffer_size_per_device",
        ):
            if getattr(self, what) < 1:
                raise SpecError(f"limits: {what} is {getattr(self, what)}; give at least 1")

    def hold(self, observed: ObservedLimits) -> bool:
        """Whether a batch that needs this much fits."""
        return (
            observed.max_ids_per_partition <= self.max_ids_per_partition
            and observed.max_unique_ids_per_partition <= self.max_unique_ids_per_partition
            and observed.required_buffer_size_per_device <= self.buffer_size_per_device
        )

    def fitted(self, topology: Topology, *, minibatching: bool = False) -> Limits:
        """The same limits, the buffer aligned and no larger than full partitions need.

        Args:
            topology: The mesh.
            minibatching: Whether there may be as many full partitions in each of 64 minibatches.
        """
        per_device = topology.sparsecores_per_device
        full = round_up(self.max_ids_per_partition, ALIGNMENT) * topology.sparsecores * per_device
        if minibatching:
            full *= BUCKETS
        wanted = round_up(self.buffer_size_per_device, ALIGNMENT * per_device)
        return dataclasses.replace(self, buffer_size_per_device=min(wanted, full))


class ObservedLimits(Protocol):
    """What a batch, or many, needed. `workers.protocol.Observed` is one."""

    @property
    def max_ids_per_partition(self) -> int:
        """Most ids of a partition."""
        ...

    @property
    def max_unique_ids_per_partition(self) -> int:
        """Most different ids of a partition."""
        ...

    @property
    def required_buffer_size_per_device(self) -> int:
        """Most entries of a device's buffer."""
        ...


def theoretical_limits(
    features: Iterable[FeatureSpec], sparsecores: int, sparsecores_per_device: int
) -> Limits:
    """The limits that no batch of these features can exceed.

    Args:
        features: All features of one stack.
        sparsecores: SparseCores of the mesh, S.
        sparsecores_per_device: SparseCores of a device.

    A sample puts into one partition at most as many ids of a table as it has ids, and as a shard
    has rows (duplicates within a sample are merged). A feature of unknown valency is taken to be
    able to hold every id once.
    """
    ids = total = 0
    unique_of_table: dict[str, int] = {}
    rows_of_table: dict[str, int] = {}
    for feature in features:
        table = feature.table_spec
        samples = sample_count(feature) // sparsecores
        rows_per_shard = math.ceil(table.vocabulary_size / sparsecores)
        valency = min(feature_valency(feature) or table.vocabulary_size, table.vocabulary_size)
        in_partition = samples * min(valency, rows_per_shard)
        ids += in_partition
        total += samples * valency
        unique_of_table[table.name] = unique_of_table.get(table.name, 0) + in_partition
        rows_of_table[table.name] = rows_per_shard
    unique = sum(min(count, rows_of_table[name]) for name, count in unique_of_table.items())
    max_ids = round_up(max(ids, 1), ALIGNMENT)
    # Every non-empty partition is padded to a multiple of 8: 7 entries at most.
    padded = round_up(total + (ALIGNMENT - 1) * min(sparsecores, total), ALIGNMENT)
    per_sparsecore = min(padded, sparsecores * max_ids)
    return Limits(
        max_ids_per_partition=max_ids,
        max_unique_ids_per_partition=min(max_ids, round_up(max(unique, 1), ALIGNMENT)),
        buffer_size_per_device=max(per_sparsecore, ALIGNMENT) * sparsecores_per_device,
    )


def feature_valency(feature: FeatureSpec) -> int | None:
    """Ids of a sample, or None if the feature is ragged and does not say."""
    return int(feature.input_shape[-1]) if len(feature.input_shape) > 1 else None


def raise_limits(
    current: Limits,
    observed: ObservedLimits,
    *,
    headroom: float = 1.25,
    maximum: Limits | None = None,
    due: bool = False,
) -> Limits:
    """Limits that hold what has been observed, with some room above it.

    Limits that hold it stay as they are. But if one of them does not, a compilation is due, and all
    that are below ``headroom`` times what was observed are raised to that, rounded up to one of few
    sizes (`round_to_size`), but not above ``maximum``. So limits settle in few compilations, and
    runs on like data meet the same sizes. Limits never shrink.

    Args:
        current: The limits in force.
        observed: The largest values seen.
        headroom: Factor of at least 1.
        maximum: What no batch can exceed: `StackPlan.maximum` or `theoretical_limits`.
        due: A compilation is due for another reason: use it to raise these limits too.

    Raises:
        SpecError: If ``headroom`` is below 1.

    Example:
        >>> seen = Observed(max_ids_per_partition=320, max_unique_ids_per_partition=100,
        ...                 required_buffer_size_per_device=900)
        >>> raise_limits(Limits(256, 256, 1024), seen)
        Limits(max_ids_per_partition=416, max_unique_ids_per_partition=256,
               buffer_size_per_device=1152)
    """
    if headroom < 1:
        raise SpecError(f"headroom is {headroom}; give at least 1")
    if current.hold(observed) and not due:
        return current

    def grown(now: int, seen: int, most: int | None) -> int:
        wanted = round_to_size(math.ceil(seen * headroom))
        if most is not None:
            # What was seen wins over a maximum that is too small: the batch must fit.
            wanted = max(min(wanted, most), round_up(seen, ALIGNMENT))
        return max(now, wanted)

    return Limits(
        grown(
            current.max_ids_per_partition,
            observed.max_ids_per_partition,
            maximum.max_ids_per_partition if maximum else None,
        ),
        grown(
            current.max_unique_ids_per_partition,
            observed.max_unique_ids_per_partition,
            maximum.max_unique_ids_per_partition if maximum else None,
        ),
        grown(
            current.buffer_size_per_device,
            observed.required_buffer_size_per_device,
            maximum.buffer_size_per_device if maximum else None,
        ),
    )


def round_to_size(value: int) -> int:
    """The next of the sizes limits grow to: multiples of 8, of which there are 8 to each doubling.

    They are at most an eighth apart, but for small ones: 8, 16, ..., 128, 144, 160, ..., 256, 288.

    Example:
        >>> [round_to_size(value) for value in (1, 100, 129, 400, 1000)]
        [8, 104, 144, 416, 1024]
    """
    step = max(ALIGNMENT, (1 << (max(value, 1) - 1).bit_length()) // 16)
    return round_up(max(value, 1), step)
