"""The CSR-wrapped COO layout: what preprocessing hands to lookup and update.

Each SparseCore of a device has a buffer of its own; those of a device lie one after another. One
buffer holds, for every SparseCore of the mesh (S in all), a *partition*: the ids this SparseCore
asks of that one, each with the sample that wants it and its gain.

    id  →  asked of SparseCore   (id + rotation) mod S
           at local row          row_offset_in_shard + id div S

    row pointers   ┌────┬────┬─────┬──────┐   one per partition: where its entries end,
    (S, at least 8)│  3 │ 10 │ ... │  end │   counted from the start of this buffer;
                   └─┬──┴──┬─┴─────┴──────┘   unused pointers (S < 8) repeat the aligned end
                     ▼     ▼
    embedding ids  │1 3 3 ∎ ∎ ∎ ∎ ∎│4 9 ∎ ∎ ∎ ∎ ∎ ∎│ ... │∎ ∎ ∎ ∎ ∎ ∎ ∎ ∎│   local rows, int32
    sample ids     │7 1 2 ∎ ∎ ∎ ∎ ∎│2 0 ∎ ∎ ∎ ∎ ∎ ∎│ ... │∎ ∎ ∎ ∎ ∎ ∎ ∎ ∎│   in this SparseCore
    gains          │1 1 1 ∎ ∎ ∎ ∎ ∎│1 1 ∎ ∎ ∎ ∎ ∎ ∎│ ... │∎ ∎ ∎ ∎ ∎ ∎ ∎ ∎│   float32
                    partition 0     partition 1           unused
                    starts at 0     starts at 8

Partitions start at multiples of 8 entries. Within one, entries are sorted by local row, then by
sample; an id that a sample names twice is one entry, with its gains added. ∎ is padding:
`UNUSED_ENTRY` for ids and samples, NaN for gains. Readers must go by the row pointers: other
writers of this layout leave the unused end of a buffer uninitialised.

Samples: a device's samples are cut evenly over its SparseCores, feature by feature, and the
features of a stack follow one another within a SparseCore. So sample ``k`` of a feature's share on
a SparseCore has the number ``row_offset / S + k``.

With minibatching the SparseCores of a device share its buffer, as
`kernels.preprocessing.minibatching` tells.

Source: the input-processing page of jax-tpu-embedding's documentation, and
https://openxla.org/xla/sparsecore.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np

from kernels.errors import SpecError
from kernels.preprocessing.minibatching import BUCKETS
from kernels.specs import StackedTableSpec
from kernels.utils import round_up

__all__ = [
    "UNUSED_ENTRY",
    "PARTITION_ALIGNMENT",
    "PreprocessedInput",
    "SparseDenseMatmulInput",
    "SparseDenseMatmulInputStats",
    "buffer_size_per_device",
    "check_sharding_strategy",
    "row_pointers_per_sparsecore",
    "theoretical_buffer_size_per_device",
]

UNUSED_ENTRY: int = 2**31 - 1
"""Embedding id and sample id of an entry that is not used."""

PARTITION_ALIGNMENT: int = 8
"""Partitions start at multiples of this many entries."""

_MIN_ROW_POINTERS = 8
_MOST_ENTRIES = 2**31 - 1


def row_pointers_per_sparsecore(sparsecores: int) -> int:
    """Row pointers of one SparseCore, with ``sparsecores`` in the mesh."""
    return max(sparsecores, _MIN_ROW_POINTERS)


def theoretical_buffer_size_per_device(
    max_ids_per_partition: int,
    sparsecores: int,
    num_sc_per_device: int,
    *,
    enable_minibatching: bool = False,
) -> int:
    """Entries a device needs when every partition (of every minibatch) is full."""
    full = round_up(max_ids_per_partition, PARTITION_ALIGNMENT)
    return full * sparsecores * num_sc_per_device * (BUCKETS if enable_minibatching else 1)


def buffer_size_per_device(
    stack: StackedTableSpec,
    sparsecores: int,
    num_sc_per_device: int,
    *,
    enable_minibatching: bool = False,
) -> int:
    """Entries of a stack's buffer on one device: as suggested, but no more than can be used.

    Raises:
        SpecError: If positions in it do not fit int32.
    """
    most = theoretical_buffer_size_per_device(
        stack.max_ids_per_partition,
        sparsecores,
        num_sc_per_device,
        enable_minibatching=enable_minibatching,
    )
    suggested = stack.suggested_coo_buffer_size_per_device
    if suggested is not None:
        most = min(most, round_up(suggested, PARTITION_ALIGNMENT * num_sc_per_device))
    if most > _MOST_ENTRIES:
        raise SpecError(
            f"stack '{stack.stack_name}': a buffer of {most} entries per device is too large: "
            f"positions must fit int32 ({_MOST_ENTRIES}); set "
            "suggested_coo_buffer_size_per_device, or lower max_ids_per_partition "
            f"({stack.max_ids_per_partition})"
        )
    return most


def check_sharding_strategy(sharding_strategy: str) -> None:
    """Refuse strategies other than MOD.

    Raises:
        SpecError: If it is another.
    """
    if sharding_strategy.upper() != "MOD":
        raise SpecError(f"sharding strategy '{sharding_strategy}' is unknown; use 'MOD'")


class SparseDenseMatmulInput(NamedTuple):
    """The four arrays of every stack, by its name.

    Shapes are per process: ``[local devices * n]``, or ``[local devices, n]`` with a leading
    dimension; inside `jax.shard_map`, ``[n]``.
    """

    lhs_row_pointers: Mapping[str, Any]
    lhs_embedding_ids: Mapping[str, Any]
    lhs_sample_ids: Mapping[str, Any]
    lhs_gains: Mapping[str, Any]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PreprocessedInput:
    """One batch, ready for lookup and update; a pytree."""

    sparse_dense_matmul_input: SparseDenseMatmulInput
    num_minibatches: Any = field(default_factory=lambda: np.array(1, dtype=np.int32))
    """``[local devices]`` int32."""

    @property
    def lhs_row_pointers(self) -> Mapping[str, Any]:
        """Row pointers by stack, int32."""
        return self.sparse_dense_matmul_input.lhs_row_pointers

    @property
    def lhs_embedding_ids(self) -> Mapping[str, Any]:
        """Local rows by stack, int32."""
        return self.sparse_dense_matmul_input.lhs_embedding_ids

    @property
    def lhs_sample_ids(self) -> Mapping[str, Any]:
        """Samples by stack, int32."""
        return self.sparse_dense_matmul_input.lhs_sample_ids

    @property
    def lhs_gains(self) -> Mapping[str, Any]:
        """Gains by stack, float32."""
        return self.sparse_dense_matmul_input.lhs_gains

    def replace(self, **changes: Any) -> PreprocessedInput:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        """Row pointers, embedding ids, sample ids and gains, for code that unpacks them."""
        return iter(self.sparse_dense_matmul_input)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SparseDenseMatmulInputStats:
    """What a batch needed, by stack; compare with the limits.

    Counts are taken before anything is dropped.
    """

    max_ids_per_partition: dict[str, np.ndarray]
    """``[local devices * S]`` int32: for every local device and every SparseCore asked, the most
    ids that one of the device's SparseCores asks."""
    max_unique_ids_per_partition: dict[str, np.ndarray]
    """``[local devices * S]`` int32: the same for different ids."""
    required_buffer_size_per_sc: dict[str, np.ndarray] = field(default_factory=dict)
    """``[local SparseCores]`` int32: entries, each partition rounded up to a multiple of 8."""
    id_drop_counters: dict[str, int] = field(default_factory=dict)
    """Ids left out because of a limit."""

    def replace(self, **changes: Any) -> SparseDenseMatmulInputStats:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def get_required_buffer_size_per_device(
        self, table_name: str, num_sc_per_device: int | None = None
    ) -> int | None:
        """Entries a device's buffer needs for a stack; None if the stack is not known.

        Args:
            table_name: The stack.
            num_sc_per_device: SparseCores of a device; None takes all those in the statistics.
        """
        if table_name not in self.required_buffer_size_per_sc:
            return None
        sizes = np.asarray(self.required_buffer_size_per_sc[table_name])
        return int(sizes.max() * (num_sc_per_device or sizes.size))

    def set_required_buffer_size_per_device(
        self,
        table_name: str,
        required_buffer_size_per_device: int,
        num_sc_per_device: int | None = None,
    ) -> None:
        """Record what a device's buffer needs, spread evenly over its SparseCores.

        Raises:
            SpecError: If the stack is not known and the number of SparseCores not given.
        """
        known = self.required_buffer_size_per_sc.get(table_name)
        count = num_sc_per_device or (0 if known is None else np.size(known))
        if not count:
            raise SpecError(f"stack '{table_name}' is not known; pass num_sc_per_device=...")
        self.required_buffer_size_per_sc[table_name] = np.full(
            count, required_buffer_size_per_device / count
        )
