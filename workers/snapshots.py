"""Copies of a state to be written while training goes on.

On CPUs, Orbax writes arrays from where they are. The train step, which updates tables in place,
would then have to copy them first, in full, while the step waits: a table that is still being read
cannot be given away. So on CPUs the state is copied before a save, by several threads, into memory
that is kept for the next save, and asked for ahead of the first: to copy into pages that are there
already takes a fifth of the time.

On accelerators nothing is done here: Orbax brings the arrays to the host itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

__all__ = ["Snapshots"]

ALIGNMENT = 64
"""Bytes to which memory must be aligned for JAX on CPUs to take it as it is."""

PAGE_BYTES = 4096
"""Of memory, at least: one byte of each is touched."""

BLOCK_BYTES = 16 << 20
"""Bytes copied at once by each thread."""


class Snapshots:
    """Takes copies of trees of arrays, one at a time, always into the same memory.

    Host memory: once this host's part of the tree, on CPUs; none elsewhere.
    """

    def __init__(self) -> None:
        self._memory: list[np.ndarray] = []
        self._reserving: Future[list[np.ndarray]] | None = None
        self._reserver = ThreadPoolExecutor(1, thread_name_prefix="snapshot-memory")

    def reserve(self, tree: Any) -> None:
        """Ask for the memory that a copy of this tree takes, on a thread of its own."""
        sizes = [shard.data.nbytes for _, shard in _shards(jax.tree.leaves(tree))]
        if self._reserving is None and sizes != [memory.nbytes for memory in self._memory]:
            self._memory = []
            self._reserving = self._reserver.submit(lambda: [_aligned(size) for size in sizes])

    def close(self) -> None:
        """Give the memory back."""
        self._reserver.shutdown()
        self._memory, self._reserving = [], None

    def take(self, tree: Any) -> Any:
        """Copy the arrays of a tree that are on CPUs.

        The copy of the call before is overwritten: nobody may be reading it any more.

        Args:
            tree: Of `jax.Array` leaves.

        Returns:
            The same tree with equal arrays, laid out alike; arrays on accelerators, and keys of
            random numbers, are the very same.
        """
        leaves, structure = jax.tree.flatten(tree)
        sources = [np.asarray(shard.data) for _, shard in _shards(leaves)]
        targets = self._targets(sources)
        blocks = [
            block
            for source, target in zip(sources, targets, strict=True)
            for block in _blocks(source, target)
        ]
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            list(pool.map(lambda block: np.copyto(block[1], block[0]), blocks))
        parts: dict[int, list[jax.Array]] = {}
        for (index, shard), target in zip(_shards(leaves), targets, strict=True):
            # The memory is taken as it is, so this makes no other copy.
            parts.setdefault(index, []).append(jax.device_put(target, shard.device))
        for index, own in parts.items():
            leaf = leaves[index]
            leaves[index] = jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, own)
        return jax.tree.unflatten(structure, leaves)

    def _targets(self, sources: list[np.ndarray]) -> list[np.ndarray]:
        """Memory for a copy of each array: that of the last time where it is as large."""
        if self._reserving is not None:
            self._memory, self._reserving = self._reserving.result(), None
        needed = [source.nbytes for source in sources]
        if needed != [memory.nbytes for memory in self._memory]:
            self._memory = []
            self._memory = [_aligned(size) for size in needed]
        return [
            memory.view(source.dtype).reshape(source.shape)
            for memory, source in zip(self._memory, sources, strict=True)
        ]


def _shards(leaves: list[Any]) -> Iterator[tuple[int, Any]]:
    """The shards on this host of all arrays that are on CPUs, with the number of the array."""
    for index, leaf in enumerate(leaves):
        if _is_on_cpus(leaf):
            for shard in leaf.addressable_shards:
                yield index, shard


def _is_on_cpus(leaf: Any) -> bool:
    return (
        isinstance(leaf, jax.Array)
        and not jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        and all(device.platform == "cpu" for device in leaf.sharding.device_set)
    )


def _aligned(size: int) -> np.ndarray:
    memory = np.empty(size + ALIGNMENT, np.uint8)
    memory[::PAGE_BYTES] = 0  # makes the system provide the pages
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size]


def _blocks(source: np.ndarray, target: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs of blocks of rows that make up the arrays."""
    if source.ndim == 0 or source.nbytes <= BLOCK_BYTES:
        return [(source, target)]
    rows = max(1, BLOCK_BYTES * len(source) // source.nbytes)
    return [
        (source[start : start + rows], target[start : start + rows])
        for start in range(0, len(source), rows)
    ]
