"""Preprocessing in numpy: the reference, and what serves where no C++ was built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kernels.errors import LimitsExceeded, Overflow
from kernels.preprocessing import trouble
from kernels.preprocessing.encoded import Encoded, EncodedStack, ProcessShape
from kernels.preprocessing.entries import Entries, make_entries
from kernels.preprocessing.format import buffer_size_per_device, row_pointers_per_sparsecore
from kernels.preprocessing.inputs import FeatureInput
from kernels.preprocessing.minibatching import (
    BUCKETS,
    Minibatching,
    bucket_of,
    minibatch_of_bucket,
    split_bits,
)
from kernels.preprocessing.pack import Bins, aligned_size, fitting, pack
from kernels.specs import StackedTableSpec

__all__ = ["encode"]


def encode(
    stacks: Mapping[str, Sequence[FeatureInput]],
    shape: ProcessShape,
    *,
    allow_id_dropping: bool,
    minibatching: Minibatching | None,
) -> Encoded:
    """Turn the ids of a batch into buffers.

    Args:
        stacks: The features of every stack, in the order of their samples.
        shape: Devices and SparseCores.
        allow_id_dropping: Leave out and count the ids that exceed a limit.
        minibatching: How to agree with other processes on minibatches; None for none.

    Raises:
        LimitsExceeded: If the batch does not fit and ``allow_id_dropping`` is off.
        SpecError: If a value of the input is wrong.
    """
    work = {name: _StackWork.of(members, shape) for name, members in stacks.items()}
    bits = 0
    overflows: list[Overflow] = []
    if minibatching is not None and minibatching.needed(any(w.exceeds() for w in work.values())):
        mine = 0
        for one in work.values():
            mine |= one.deal_buckets()
            if not allow_id_dropping:
                overflows += one.overflows()
        if overflows:
            raise LimitsExceeded(overflows)
        bits = minibatching.splits(mine)
    arrays: dict[str, EncodedStack] = {}
    for name, one in work.items():
        try:
            arrays[name] = one.finish(bits, minibatching is not None, allow_id_dropping)
        except LimitsExceeded as error:
            overflows += error.overflows
    if overflows:
        raise LimitsExceeded(overflows)
    return Encoded(arrays, bits.bit_count() + 1)


@dataclass
class _StackWork:
    """One stack under way. A *group* is what limits hold for: a partition, or its bucket."""

    stack: StackedTableSpec
    shape: ProcessShape
    entries: Entries
    is_new_row: np.ndarray
    counts: np.ndarray
    """``[local SparseCores, S]`` entries of every partition."""
    unique: np.ndarray
    """``[local SparseCores, S]`` different rows of every partition."""
    buckets: np.ndarray | None = None
    """``[entries]``: the bucket of each, once dealt."""
    group_counts: np.ndarray | None = None
    """``[groups]``, bucket after bucket of every partition, once dealt."""
    group_unique: np.ndarray | None = None

    @classmethod
    def of(cls, members: Sequence[FeatureInput], shape: ProcessShape) -> _StackWork:
        stack = members[0].spec.table_spec.stacked_table_spec
        entries = make_entries(members, shape)
        grid = (shape.sources, shape.sparsecores)
        is_new_row = entries.is_new_row()
        before = np.concatenate(([0], np.cumsum(is_new_row)))
        return cls(
            stack,
            shape,
            entries,
            is_new_row,
            counts=np.diff(entries.first).reshape(grid),
            unique=np.diff(before[entries.first]).reshape(grid),
        )

    def exceeds(self) -> bool:
        """Whether a partition is beyond its limits."""
        return (
            int(self.counts.max()) > self.stack.max_ids_per_partition
            or int(self.unique.max()) > self.stack.max_unique_ids_per_partition
        )

    def deal_buckets(self) -> int:
        """Find every entry's bucket; returns where this stack needs to be cut."""
        partition = self.entries.keys >> self.entries.layout.partition_shift
        new = np.flatnonzero(self.is_new_row)
        s = self.shape.sparsecores
        columns = self.entries.rows()[new] * s + partition[new] % s
        repeats = np.diff(new, append=partition.size)
        self.buckets = np.repeat(bucket_of(columns), repeats)
        group = partition * BUCKETS + self.buckets
        groups = self.counts.size * BUCKETS
        self.group_counts = np.bincount(group, minlength=groups)
        self.group_unique = np.bincount(group[new], minlength=groups)
        return split_bits(
            self.group_counts.reshape(-1, BUCKETS), self.stack.max_ids_per_partition
        ) | split_bits(
            self.group_unique.reshape(-1, BUCKETS), self.stack.max_unique_ids_per_partition
        )

    def overflows(self, entries: int = 0, buffer: int = 0) -> list[Overflow]:
        """The limits that a group exceeds, and the buffer if it needs more entries than it has."""
        counts = self.counts if self.group_counts is None else self.group_counts
        unique = self.unique if self.group_unique is None else self.group_unique
        return trouble.overflows(self.stack, int(counts.max()), int(unique.max()), entries, buffer)

    def finish(self, bits: int, is_minibatched: bool, drop: bool) -> EncodedStack:
        """The stack's buffers, given where minibatches are cut."""
        minibatches = bits.bit_count() + 1
        bins = self._bins(minibatches, is_minibatched)
        partitions = bins.grid[0] * bins.grid[1]
        order = None
        partition = self.entries.keys >> self.entries.layout.partition_shift
        group, groups = partition, partitions
        if self.buckets is not None:
            source, asked = np.divmod(partition, self.shape.sparsecores)
            partition = source * minibatches + minibatch_of_bucket(bits)[self.buckets]
            partition *= self.shape.sparsecores
            partition += asked
            group, groups = partition * BUCKETS + self.buckets, partitions * BUCKETS
            order = np.argsort(group, kind="stable")
            partition, group = partition[order], group[order]
        counts = np.bincount(partition, minlength=partitions)
        keep, dropped = self._kept(order, partition, group, groups, counts, bins, drop)
        rows, samples, gains = self.entries.rows(), self.entries.samples(), self.entries.gains
        chosen = order
        if keep is not None:
            chosen = np.flatnonzero(keep) if order is None else order[keep]
            counts = np.bincount(partition[keep], minlength=partitions)
        if chosen is not None:
            rows, samples, gains = rows[chosen], samples[chosen], gains[chosen]
        buffers = pack(rows, samples, gains, counts, bins)
        return EncodedStack(
            buffers.row_pointers,
            buffers.embedding_ids,
            buffers.sample_ids,
            buffers.gains,
            max_ids=self._most_of_device(self.counts),
            max_unique_ids=self._most_of_device(self.unique),
            required_buffer=aligned_size(self.counts).sum(axis=1).astype(np.int32),
            dropped=dropped,
        )

    def _bins(self, minibatches: int, is_minibatched: bool) -> Bins:
        shape = self.shape
        per_device = buffer_size_per_device(
            self.stack, shape.sparsecores, shape.per_device, enable_minibatching=is_minibatched
        )
        count = shape.local_devices if is_minibatched else shape.sources
        cores = shape.sources // count
        return Bins(
            count=count,
            size=per_device * shape.local_devices // count,
            segments=cores * minibatches,
            asked=shape.sparsecores,
            pointers=row_pointers_per_sparsecore(shape.sparsecores),
            most_segments=cores * (BUCKETS if is_minibatched else 1),
        )

    def _kept(
        self,
        order: np.ndarray | None,
        partition: np.ndarray,
        group: np.ndarray,
        groups: int,
        counts: np.ndarray,
        bins: Bins,
        drop: bool,
    ) -> tuple[np.ndarray | None, int]:
        """Which entries (in their final order) stay, None for all; and the ids left out."""
        required = int(aligned_size(counts.reshape(bins.grid)).sum(axis=1).max())
        bins_of_device = bins.count // self.shape.local_devices
        overflows = self.overflows(required * bins_of_device, bins.size * bins_of_device)
        if not overflows:
            return None, 0
        if not drop:
            raise LimitsExceeded(overflows)
        within = self._within_limits(order, group, groups)
        fits = np.zeros_like(within)
        left = np.bincount(partition[within], minlength=counts.size)
        fits[within] = fitting(left, bins)
        # Every id beyond a limit, but an entry beyond the buffer once: the counts of the peer.
        beyond, ids = ~within, self.entries.ids_per_entry
        dropped = int(np.count_nonzero(within & ~fits))
        if ids is None:
            dropped += int(np.count_nonzero(beyond))
        else:
            dropped += int((ids if order is None else ids[order])[beyond].sum())
        return fits, dropped

    def _within_limits(
        self, order: np.ndarray | None, group: np.ndarray, groups: int
    ) -> np.ndarray:
        """``[entries]`` bool: whether an entry is among the first of its group that may stay."""
        is_new = self.is_new_row if order is None else self.is_new_row[order]
        counts = np.bincount(group, minlength=groups)
        first = np.cumsum(counts) - counts
        unique = np.cumsum(is_new)
        unique_before = np.concatenate(([0], unique))[first]
        within = np.arange(group.size) - np.repeat(first, counts) < self.stack.max_ids_per_partition
        within &= unique - np.repeat(unique_before, counts) <= (
            self.stack.max_unique_ids_per_partition
        )
        return within

    def _most_of_device(self, counts: np.ndarray) -> np.ndarray:
        shape = self.shape
        by_device = counts.reshape(shape.local_devices, shape.per_device, shape.sparsecores)
        return by_device.max(axis=1).reshape(-1).astype(np.int32)
