"""Minibatching: a batch that exceeds its limits is looked up in several rounds instead of cut.

A round is a *minibatch*: a share of the rows of the tables, the same rows on every process, so that
each round's partitions are within the limits. Which round a row belongs to follows from a hash of
its place alone:

    bucket of an id = HighwayHash(its column) mod 64,  column = local row * S + SparseCore asked

A binary tree over the 64 buckets says which neighbours may share a minibatch. It is cut where the
entries of both sides together would exceed a limit:

    buckets     0   1   2   3   4   5   6   7        entries of a partition, limit 7
    entries     2   5   1   6   3   4   2   0
                └─7─┘   └─7─┘   └─7─┘   └─2─┘        leaves first: at most 7, no cut
                  └──✂────┘       └──✂────┘          7 + 7 and 7 + 2 exceed 7: cut between them
                      └──────✂──────┘                and the upper bounds 7 + 7 again
    minibatch   0   0   1   1   2   2   3   3

Cuts are bits of one number (`split_bits`), leaves first. All partitions of all stacks, devices and
processes cut alike: their numbers are combined by OR. So do the processes agree, in two steps:

1. Does any process hold a partition beyond its limits? (All-reduce under key ``2 * batch_number``.)
   If none does there is one minibatch, and its buffers are laid out as follows nevertheless.
2. Where to cut? (All-reduce under key ``2 * batch_number + 1``.)

Buffers with minibatching differ from those drawn in `kernels.preprocessing.format`: partitions
follow one another over the whole buffer of a device, by SparseCore, then minibatch, then
SparseCore asked, each aligned to 8 entries, and row pointers count from the start of the device's
buffer. With n minibatches and R = max(S, 8), the pointer of (local SparseCore c, minibatch m,
SparseCore asked a) is number ``(c * n + m) * R + a``. There is room for 64 minibatches; pointers
that are not used repeat the aligned end of the data. Within a partition entries are sorted by
bucket, then local row, then sample; no row is in two minibatches.

Statistics are those of the whole batch, whatever the number of minibatches. If ids may be dropped,
limits hold for every bucket; if not, a bucket that exceeds a limit alone is an error, as no cut
helps.

Source: the behaviour of jax-tpu-embedding 0.2.0, with which outputs agree byte for byte;
J. Alakuijala, B. Cox, J. Wassenberg, "Fast keyed hash/pseudo-random function using SIMD multiply
and permute", 2016, https://arxiv.org/abs/1612.06257.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from kernels.errors import SpecError
from kernels.preprocessing.highway_hash import highway_hash

__all__ = [
    "BUCKETS",
    "AllReduceInterface",
    "Minibatching",
    "bucket_of",
    "minibatch_of_bucket",
    "split_bits",
]

BUCKETS: int = 64
"""Most minibatches of a batch."""

_REFUSED_NEED = 2
_REFUSED_SPLITS = 1 << (BUCKETS - 1)  # one above the bits of the tree's 63 inner nodes


class AllReduceInterface(Protocol):
    """What minibatching asks of the link between processes; see `get_all_reduce_interface`."""

    def all_reduce(self, key: int, value: int) -> int:
        """The bitwise OR of the values that all processes give for this key.

        Blocks until all have given theirs.

        Args:
            key: Which exchange this is; every process uses each key once.
            value: At least 0, below ``2**64``.
        """
        ...


class Minibatching:
    """How the processes agree on the minibatches of one batch.

    Engines call `needed` once and, if it is true, `splits` once. Both block until every process of
    the mesh has called them.
    """

    def __init__(self, link: AllReduceInterface | None = None, batch_number: int = 0) -> None:
        """Prepare for one batch.

        Args:
            link: To the other processes; None if there are none.
            batch_number: The same on all processes, different for batches under way.
        """
        self._link = link
        self._key = 2 * batch_number
        self._owed: int | None = _REFUSED_NEED  # what others wait for, if this process gives up

    def needed(self, mine: bool) -> bool:
        """Whether any process needs more than one minibatch, of which this one says ``mine``."""
        needed = self._exchange(int(mine), refused=_REFUSED_NEED)
        self._owed = _REFUSED_SPLITS if needed else None
        return bool(needed)

    def splits(self, mine: int) -> int:
        """The cuts of all processes together, of which this one needs ``mine``."""
        bits = self._exchange(mine, refused=_REFUSED_SPLITS)
        self._owed = None
        return bits

    def give_up(self) -> None:
        """Tell the others, which may wait, that this process cannot encode its batch."""
        if self._owed is not None:
            owed, self._owed = self._owed, None
            if self._link is not None:
                self._link.all_reduce(self._key, owed)

    def _exchange(self, value: int, *, refused: int) -> int:
        key, self._key = self._key, self._key + 1
        if self._link is None:
            return value
        self._owed = None  # if this fails, so it does for the others
        total = self._link.all_reduce(key, value)
        if total & refused:
            raise SpecError(
                f"minibatching: another process could not encode its share of batch {key // 2}; "
                "its own error says why"
            )
        return total


def bucket_of(columns: np.ndarray) -> np.ndarray:
    """The bucket of every column: ``local row * S + SparseCore asked``, int64 ``[n]``.

    Columns count modulo ``2**32``.
    """
    return (highway_hash(columns) % np.uint64(BUCKETS)).astype(np.int64)


def split_bits(counts: np.ndarray, limit: int) -> int:
    """Where to cut so that no partition exceeds a limit, as far as cutting can help.

    Bit 0 cuts between buckets 0 and 1, bit 31 between 62 and 63, bit 32 between 0-1 and 2-3, and
    so on up the tree to bit 62, between 0-31 and 32-63.

    Args:
        counts: ``[..., 64]`` entries (or different rows) of every partition's buckets.
        limit: Most that a partition may have in a minibatch.
    """
    level = np.asarray(counts, dtype=np.int64).reshape(-1, BUCKETS)
    bits = node = 0
    while level.shape[1] > 1:
        left, right = level[:, ::2], level[:, 1::2]
        cut = left + right > limit
        for position in np.flatnonzero(cut.any(axis=0)).tolist():
            bits |= 1 << (node + position)
        node += cut.shape[1]
        # A cut node counts as its larger side: that is what a neighbour may join.
        level = np.where(cut, np.maximum(left, right), left + right)
    return bits


def minibatch_of_bucket(bits: int) -> np.ndarray:
    """``[64]`` int64: the minibatch of every bucket, ascending from 0, given the cuts."""
    is_first = np.zeros(BUCKETS, dtype=np.int64)
    node, size = 0, 2
    while size <= BUCKETS:
        for boundary in range(size // 2, BUCKETS, size):
            is_first[boundary] = bits >> node & 1
            node += 1
        size *= 2
    return np.cumsum(is_first)
