"""What engines are told of the mesh, and what they give back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kernels.preprocessing.inputs import FeatureInput

__all__ = ["Encoded", "EncodedStack", "ProcessShape", "stack_extent"]


@dataclass(frozen=True)
class ProcessShape:
    """How many devices and SparseCores this process and the mesh have."""

    local_devices: int
    devices: int
    """Devices of the mesh."""
    per_device: int
    """SparseCores of a device."""

    @property
    def sources(self) -> int:
        """SparseCores of this process."""
        return self.local_devices * self.per_device

    @property
    def sparsecores(self) -> int:
        """SparseCores of the mesh, S."""
        return self.devices * self.per_device


@dataclass(frozen=True)
class EncodedStack:
    """One stack's buffers on this process, and what the batch needed."""

    row_pointers: np.ndarray
    """``[local devices * pointers of a device]`` int32, of any shape."""
    embedding_ids: np.ndarray
    """``[local devices * buffer of a device]`` int32."""
    sample_ids: np.ndarray
    """``[local devices * buffer of a device]`` int32."""
    gains: np.ndarray
    """``[local devices * buffer of a device]`` float32."""
    max_ids: np.ndarray
    """``[local devices * S]`` int32."""
    max_unique_ids: np.ndarray
    """``[local devices * S]`` int32."""
    required_buffer: np.ndarray
    """``[local SparseCores]`` int32."""
    dropped: int


@dataclass(frozen=True)
class Encoded:
    """All stacks of one batch on this process."""

    stacks: Mapping[str, EncodedStack]
    num_minibatches: int
    """1 without minibatching."""


def stack_extent(members: Sequence[FeatureInput], shape: ProcessShape) -> tuple[int, int]:
    """(samples of one SparseCore, rows of one shard) that the features of a stack reach.

    They follow from where the features lie. The stack's own sizes may be larger, and those of
    stacks that were made by hand need not fit.
    """
    s = shape.sparsecores
    samples = rows = 0
    for given in members:
        where = given.spec.id_transformation
        samples = max(samples, where.row_offset // s + given.samples // shape.sources)
        last = given.spec.table_spec.vocabulary_size - 1
        rows = max(rows, where.col_offset // s + last // s + 1)
    return samples, rows
