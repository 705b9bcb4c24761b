"""Ordinary buffers written anew with minibatches, in plain Python: nothing of ours takes part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

import kernels

MOST = 64
"""Minibatches that a batch may have."""


def in_minibatches(
    batch: kernels.PreprocessedInput, devices: int, per_device: int, count: int, seed: int = 0
) -> kernels.PreprocessedInput:
    """The batch with the rows of every stack dealt out to ``count`` minibatches.

    What is not used is filled with what would hurt if it were read.
    """
    parts: list[dict[str, np.ndarray]] = [{}, {}, {}, {}]
    for name in batch.lhs_row_pointers:
        for part, values in zip(
            parts, _stack(batch, name, devices, per_device, count, seed), strict=True
        ):
            part[name] = values
    return kernels.PreprocessedInput(
        kernels.SparseDenseMatmulInput(*parts), np.full((devices,), count, np.int32)
    )


def _stack(
    batch: Any, name: str, devices: int, per_device: int, count: int, seed: int
) -> list[np.ndarray]:
    cores = devices * per_device
    pointers_per_core = max(cores, 8)
    result: list[list[np.ndarray]] = []
    for device in range(devices):
        mine = [
            np.asarray(part[name]).reshape(devices, per_device, -1)[device]
            for part in batch.sparse_dense_matmul_input
        ]
        pointers = np.full(per_device * MOST * pointers_per_core, -77_777, np.int32)
        entries: list[tuple[int, int, float]] = []
        place = 0
        for core in range(per_device):
            by_minibatch = _by_minibatch(core, mine, cores, count, seed)
            for minibatch in range(count):
                for asked in range(cores):
                    entries += [(1, 1, 1e9)] * (-len(entries) % 8)
                    entries += by_minibatch.get((minibatch, asked), [])
                    pointers[place] = len(entries)
                    place += 1
                end = -(-len(entries) // 8) * 8
                pointers[place : place + pointers_per_core - cores] = end
                place += pointers_per_core - cores
        columns = zip(*entries, strict=True) if entries else [()] * 3
        result.append([pointers, *(np.array(column) for column in columns)])
    # The same for every batch, so that a program is compiled once: every partition wastes up to 7.
    size = len(np.asarray(batch.lhs_gains[name]).reshape(-1)) // devices
    size += 8 * per_device * count * cores + 24
    return [
        np.concatenate([pointers for pointers, *_ in result]),
        *(
            np.concatenate(
                [np.append(d[k], np.full(size - len(d[k]), filler)) for d in result]
            ).astype(kind)
            for k, filler, kind in ((1, 1, np.int32), (2, 1, np.int32), (3, 1e9, np.float32))
        ),
    ]


def _by_minibatch(
    core: int, mine: list[np.ndarray], cores: int, count: int, seed: int
) -> Mapping[tuple[int, int], list[tuple[int, int, float]]]:
    """Entries of a SparseCore by (minibatch, SparseCore asked); rows in a different order."""
    pointers, ids, samples, gains = (part[core] for part in mine)
    found: dict[tuple[int, int], list[tuple[int, int, float]]] = {}
    start = 0
    for asked in range(cores):
        end = int(pointers[asked])
        for at in range(start, end):
            row = int(ids[at])
            minibatch = hash((row, asked, seed)) % count
            entry = (row, int(samples[at]), float(gains[at]))
            found.setdefault((minibatch, asked), []).append(entry)
        start = -(-end // 8) * 8
    for rows in found.values():
        rows.sort(key=lambda entry: (hash((entry[0], seed)) % 7, entry[0]))
    return found
