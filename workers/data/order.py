"""Which rows make up which batch: a pure function of (seed, epoch, step).

    row groups of the files     ▢▢▢▢▢▢▢▢▢▢        permuted afresh every epoch,
    one long sequence of rows   ──────────────     laid end to end,
    V logical shards            ───┬───┬───┬───    cut into equal parts, to the row,
    windows of W rows           ─┬─┬─┬─            shuffled inside windows of each shard.

A global batch of B samples takes the next B / V rows of every logical shard, shard by shard: slot
``s`` of a batch belongs to shard ``s // (B / V)``. A host owns a range of slots. Hence the position
in the data is the step number alone, the content of a global batch does not depend on the number of
hosts, every row comes exactly once an epoch, and the number of steps is known from the metadata of
the files. Where a shard has run out, slots are padding (row id -1), to be weighted 0.

V is fixed for a run and independent of the number of hosts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

from workers.errors import DataError

__all__ = ["PADDING_ROW", "Order", "RowOrder", "default_logical_shards", "order_of"]

PADDING_ROW = -1
"""Row id of a slot that holds no row."""

MOST_LOGICAL_SHARDS = 256


def default_logical_shards(batch_size: int) -> int:
    """The largest divisor of the batch size that is at most 256."""
    return max(d for d in range(1, min(batch_size, MOST_LOGICAL_SHARDS) + 1) if batch_size % d == 0)


def _permutation(size: int, *key: int) -> np.ndarray:
    """A permutation of ``range(size)`` fixed by the key, on every platform and numpy version.

    Generator methods may change between numpy versions; the raw stream of a bit generator may not.
    """
    raw = np.random.Philox(np.random.SeedSequence(key)).random_raw(size)
    return np.argsort(np.asarray(raw, dtype=np.uint64), kind="stable")


class Order(Protocol):
    """What batches are made by: see ``RowOrder``, the order that runs have."""

    @property
    def batch_size(self) -> int:
        """Samples per global batch."""
        ...

    @property
    def steps_per_epoch(self) -> int:
        """Batches in which every row comes once."""
        ...

    def position(self, step: int) -> tuple[int, int]:
        """Epoch and step within it of a step, both from 0."""
        ...

    def examples_of(self, step: int) -> int:
        """Rows in the global batch of a step of an epoch."""
        ...

    def batches(
        self, epoch: int, first: int, last: int, slots: tuple[int, int] | None = None
    ) -> np.ndarray:
        """Row ids of the steps [first, last) of an epoch, int64 ``[last - first, slots]``."""
        ...


@dataclass(frozen=True)
class RowOrder:
    """The order of the rows of one split.

    Attributes:
        row_groups: Rows of every row group, in the order of the files.
        batch_size: Samples per global batch.
        seed: Seed of every permutation.
        logical_shards: V; divides ``batch_size``.
        shuffle_window: W, in rows.

    Example:
        >>> order = RowOrder((5, 3), batch_size=4, seed=0, logical_shards=2)
        >>> order.steps_per_epoch
        2
        >>> sorted(order.batches(0, 0, 2).ravel().tolist())
        [0, 1, 2, 3, 4, 5, 6, 7]
    """

    row_groups: tuple[int, ...]
    batch_size: int
    seed: int
    logical_shards: int
    shuffle_window: int = 4096

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.logical_shards < 1 or self.shuffle_window < 1:
            raise DataError(
                "batch_size, logical_shards and shuffle_window must be at least 1, got "
                f"{self.batch_size}, {self.logical_shards}, {self.shuffle_window}"
            )
        if self.batch_size % self.logical_shards:
            raise DataError(
                f"logical_shards {self.logical_shards} must divide batch_size {self.batch_size}; "
                f"the largest that does is {default_logical_shards(self.batch_size)}"
            )

    @property
    def rows(self) -> int:
        """Rows of the split."""
        return sum(self.row_groups)

    @property
    def rows_per_shard_and_batch(self) -> int:
        """How many rows every batch takes of every logical shard."""
        return self.batch_size // self.logical_shards

    @property
    def steps_per_epoch(self) -> int:
        """Batches in which every row comes once."""
        longest = -(-self.rows // self.logical_shards)
        return -(-longest // self.rows_per_shard_and_batch)

    def position(self, step: int) -> tuple[int, int]:
        """Epoch and step within it of a step of the run, both from 0."""
        return divmod(step, self.steps_per_epoch)

    def examples_of(self, step: int) -> int:
        """Rows in the global batch of a step of an epoch: the others of its slots are padding."""
        share = self.rows_per_shard_and_batch
        bounds = np.arange(self.logical_shards + 1, dtype=np.int64) * self.rows
        lengths = np.diff(bounds // self.logical_shards)
        return int(np.clip(lengths - step * share, 0, share).sum())

    def batches(
        self, epoch: int, first: int, last: int, slots: tuple[int, int] | None = None
    ) -> np.ndarray:
        """Row ids of the steps [first, last) of an epoch, for a range of slots.

        Args:
            epoch: From 0.
            first: First step within the epoch.
            last: One past the last step within the epoch.
            slots: Range of slots of the global batch; all of them by default.

        Returns:
            int64 ``[last - first, slots]``; row ids count the rows of the split in the order of the
            files, ``PADDING_ROW`` where the slot is empty.
        """
        low, high = slots if slots is not None else (0, self.batch_size)
        share = self.rows_per_shard_and_batch
        first_shard, last_shard = low // share, -(-high // share)
        parts = [
            self._shard_rows(epoch, shard, first * share, last * share).reshape(-1, share)
            for shard in range(first_shard, last_shard)
        ]
        if not parts:
            return np.empty((last - first, 0), np.int64)
        offset = first_shard * share
        return np.concatenate(parts, axis=1)[:, low - offset : high - offset]

    def _shard_rows(self, epoch: int, shard: int, first: int, last: int) -> np.ndarray:
        """Row ids at the places [first, last) of a logical shard, padded at its end."""
        begin = shard * self.rows // self.logical_shards
        end = (shard + 1) * self.rows // self.logical_shards
        window = self.shuffle_window
        found = []
        place = first
        while place < min(last, end - begin):
            number = place // window
            rows = _window_rows(self, epoch, shard, number, begin, end)
            offset = place - number * window
            piece = rows[offset : offset + last - place]
            found.append(piece)
            place += len(piece)
        padding = np.full(last - first - sum(map(len, found)), PADDING_ROW, np.int64)
        return np.concatenate([*found, padding])


@lru_cache(maxsize=2)
def _epoch_layout(order: RowOrder, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each permuted row group begins in the sequence, and its first row id."""
    sizes = np.asarray(order.row_groups, np.int64)
    starts = np.cumsum(sizes) - sizes
    permuted = _permutation(len(sizes), order.seed, epoch)
    ends = np.cumsum(sizes[permuted])
    return ends - sizes[permuted], starts[permuted]


@lru_cache(maxsize=2 * MOST_LOGICAL_SHARDS)
def _window_rows(
    order: RowOrder, epoch: int, shard: int, number: int, begin: int, end: int
) -> np.ndarray:
    """Shuffled row ids of one window of one logical shard."""
    first = begin + number * order.shuffle_window
    last = min(first + order.shuffle_window, end)
    places = first + _permutation(last - first, order.seed, epoch, shard, number)
    begins, first_rows = _epoch_layout(order, epoch)
    group = np.searchsorted(begins, places, side="right") - 1
    return first_rows[group] + (places - begins[group])


def order_of(
    row_groups: Sequence[int],
    *,
    batch_size: int,
    seed: int,
    logical_shards: int | None,
    shuffle_window: int,
) -> RowOrder:
    """A ``RowOrder`` with the default number of logical shards filled in."""
    shards = default_logical_shards(batch_size) if logical_shards is None else logical_shards
    return RowOrder(tuple(row_groups), batch_size, seed, shards, shuffle_window)
