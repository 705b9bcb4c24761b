"""Step three of preprocessing in numpy: one stack's ids as sorted entries, duplicates merged.

Every id becomes one int64 key

    | local SparseCore | SparseCore asked | local row | sample | (position) |

so that one sort does all of partitioning, ordering and grouping duplicates. The position is added
only when ids have gains of their own, to find them again and to add them in input order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kernels.errors import SpecError
from kernels.preprocessing.encoded import ProcessShape, stack_extent
from kernels.preprocessing.flatten import FlatFeature, flatten_feature
from kernels.preprocessing.inputs import FeatureInput

__all__ = ["Entries", "KeyLayout", "make_entries"]

_KEY_BITS = 62  # above them, the sign and a bit that only padding sets
_PADDING_KEY = np.int64(2**63 - 1)


@dataclass(frozen=True)
class KeyLayout:
    """Bits of the fields of a key, from the lowest up: sample, row, partition."""

    sample_bits: int
    row_bits: int
    partitions: int

    @property
    def partition_shift(self) -> int:
        """Bits below the partition."""
        return self.sample_bits + self.row_bits

    @property
    def bits(self) -> int:
        """Bits of a whole key."""
        return self.partition_shift + (self.partitions - 1).bit_length()


@dataclass(frozen=True)
class Entries:
    """The entries of one stack on this process, sorted by partition, local row and sample."""

    keys: np.ndarray
    """``[n]`` int64, each once."""
    gains: np.ndarray
    """``[n]`` float32."""
    ids_per_entry: np.ndarray | None
    """``[n]``: how many ids of the input became each entry; None for one each."""
    layout: KeyLayout
    first: np.ndarray
    """``[partitions + 1]``: the first entry of every partition, and the end."""

    def rows(self) -> np.ndarray:
        """``[n]``: local rows."""
        return (self.keys >> self.layout.sample_bits) & ((1 << self.layout.row_bits) - 1)

    def samples(self) -> np.ndarray:
        """``[n]``: samples, as the SparseCore counts them."""
        return self.keys & ((1 << self.layout.sample_bits) - 1)

    def is_new_row(self) -> np.ndarray:
        """``[n]`` bool: whether the entry before is of another partition or row."""
        rows = self.keys >> self.layout.sample_bits
        is_new = np.empty(self.keys.size, dtype=bool)
        is_new[:1] = True
        np.not_equal(rows[1:], rows[:-1], out=is_new[1:])
        return is_new


def make_entries(inputs: Sequence[FeatureInput], shape: ProcessShape) -> Entries:
    """Check, partition, sort and merge the ids of a stack's features.

    Raises:
        SpecError: If a value of the input is wrong, or a key does not fit 62 bits.
    """
    members = [flatten_feature(given) for given in inputs]
    samples, rows = stack_extent(inputs, shape)
    layout = KeyLayout(
        sample_bits=max(samples - 1, 0).bit_length(),
        row_bits=(rows - 1).bit_length(),
        partitions=shape.sources * shape.sparsecores,
    )
    if layout.bits > _KEY_BITS:
        name = inputs[0].spec.table_spec.stacked_table_spec.stack_name
        raise SpecError(
            f"stack '{name}': {shape.sources} local SparseCores, {shape.sparsecores} in all, "
            f"{rows} rows of a shard and {samples} samples of a SparseCore need {layout.bits} bits "
            "of a 62-bit key; split the stack or use more processes"
        )
    keys, gains = _sorted(_keys(members, shape, layout), members, shape, layout, samples)
    keys, gains, ids_per_entry = _merged(keys, gains)
    starts = np.arange(layout.partitions + 1, dtype=np.int64) << layout.partition_shift
    return Entries(keys, gains, ids_per_entry, layout, np.searchsorted(keys, starts))


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
        if where.col_shift % s:
            asked += where.col_shift % s
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
    if any(feature.gains is not None for feature in members):
        gains = np.concatenate([feature.gain_of_id() for feature in members])
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
    more = np.flatnonzero(count > 1)
    for further in range(1, int(count.max())):
        more = more[count[more] > further]
        total[more] += gains[first[more] + further]
    return keys[first], total, count
