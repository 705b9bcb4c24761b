"""64-bit hashes of strings and integers: seeded, and the same everywhere and for ever.

All arithmetic is on unsigned 64-bit numbers and wraps around. With

    G       = 0x9E3779B97F4A7C15
    mix(x)  = the finaliser of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number
              generators", 2014), a bijection

an integer ``v`` (two's complement of 64 bits) has the hash

    mix(v + seed * G)

so that two integers never have the same one; and a string (of ``n`` bytes of UTF-8, or any bytes)
is cut into words ``w_0, w_1, ...`` of 8 bytes, little-endian, the last one filled up with zeros
(at least one word, if it is all zeros), and has the hash

    mix(n * G + sum over k of mix((w_k ^ mix(seed + G)) + (k + 1) * G))

The sum makes all words of a column independent of each other, so that numpy mixes them at once.
Two different strings have the same hash with probability 2^-64 or so. It is no defence against
people who choose strings in order to make them collide.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pyarrow as pa

from workers.data.transforms.columns import is_text
from workers.errors import DataError

__all__ = ["GOLDEN", "hash_values", "into_buckets", "mix"]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_WORD = np.dtype("<u8")
_BLOCK = 1 << 14
"""Values hashed at a time: few enough that what is between two steps stays in the cache."""
_BLOCK_BYTES = 1 << 20
"""Most bytes of several strings hashed at a time."""
_PIECE = 1 << 17
"""Most words of one string hashed at a time."""
_TAIL = np.array([(1 << (8 * used)) - 1 for used in range(9)], np.uint64)
"""What is left of a word of which the string has so many bytes."""


def mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64, of uint64 ``[n]``, in a new array."""
    return _mix(values.copy())


def _mix(values: np.ndarray) -> np.ndarray:
    """`mix` in place, by blocks that fit the cache."""
    shifted = np.empty(min(len(values), _BLOCK), np.uint64)
    for first in range(0, len(values), _BLOCK):
        block = values[first : first + _BLOCK]
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
            np.right_shift(block, np.uint64(shift), out=shifted[: len(block)])
            np.bitwise_xor(block, shifted[: len(block)], out=block)
            if factor != 1:
                np.multiply(block, np.uint64(factor), out=block)
    return values


def into_buckets(hashes: np.ndarray, buckets: int) -> np.ndarray:
    """int32 ``[n]``: the hashes modulo the number of buckets."""
    size = np.uint64(buckets)
    # numpy divides by a constant much faster than it takes remainders.
    return (hashes - (hashes // size) * size).astype(np.int32)


def hash_values(values: pa.Array | pa.ChunkedArray, seed: int = 0) -> np.ndarray:
    """64-bit hashes of strings, bytes or integers; the same on every machine and in every version.

    Integers of any width, and strings in any of Arrow's forms, hash alike. A null hashes as 0 or
    as the empty string. About 2 ns an integer and 20 ns a short string; dictionary-encoded
    columns are hashed once a value of the dictionary.

    Args:
        values: Of integers, strings or bytes, plain or dictionary-encoded.
        seed: Another seed makes an independent hash.

    Returns:
        uint64 ``[n]``.

    Raises:
        DataError: Values are of another type.
    """
    if isinstance(values, pa.ChunkedArray):
        parts = [hash_values(chunk, seed) for chunk in values.chunks]
        return np.concatenate(parts) if parts else np.zeros(0, np.uint64)
    kind = values.type
    if pa.types.is_dictionary(kind):
        indices = values.indices
        if values.null_count or values.dictionary.null_count:
            return hash_values(values.cast(kind.value_type), seed)
        return hash_values(values.dictionary, seed)[indices.to_numpy(zero_copy_only=False)]
    start = np.array([seed & 0xFFFFFFFFFFFFFFFF], np.uint64)
    if pa.types.is_integer(kind):
        filled = values.fill_null(0) if values.null_count else values
        numbers = filled.to_numpy(zero_copy_only=False)
        return _mix(numbers.astype(np.int64).view(np.uint64) + start * GOLDEN)
    if not is_text(kind):
        raise DataError(f"values of type {kind} cannot be hashed; give strings or integers")
    return _hash_strings(values, mix(start + GOLDEN))


def _hash_strings(values: pa.Array, key: np.ndarray) -> np.ndarray:
    kind = values.type
    if kind in (pa.string_view(), pa.binary_view()):
        values = values.cast(pa.large_binary())
    if values.null_count:
        values = values.fill_null("" if "string" in str(values.type) else b"")
    large = pa.types.is_large_string(values.type) or pa.types.is_large_binary(values.type)
    _, offset_buffer, data_buffer = values.buffers()
    result = np.empty(len(values), np.uint64)
    if not len(values):
        return result
    offsets = np.frombuffer(offset_buffer, np.int64 if large else np.int32)
    offsets = offsets[values.offset : values.offset + len(values) + 1]
    data = np.frombuffer(data_buffer, np.uint8) if data_buffer else np.zeros(0, np.uint8)
    first = 0
    while first < len(values):
        most = np.searchsorted(offsets, offsets[first] + _BLOCK_BYTES, side="right") - 1
        last = max(first + 1, min(first + _BLOCK, int(most)))
        bounds = offsets[first : last + 1].astype(np.int64)
        result[first:last] = _hash_block(data[bounds[0] : bounds[-1]], bounds - bounds[0], key)
        first = last
    return result


def _hash_block(data: np.ndarray, bounds: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Hash the strings ``data[bounds[i]:bounds[i + 1]]``."""
    memory = np.zeros(data.size // 8 + 2, _WORD)
    memory.view(np.uint8)[: data.size] = data
    starts, lengths = bounds[:-1], np.diff(bounds)
    counts = np.maximum((lengths + 7) >> 3, 1)
    tails = _TAIL[lengths - 8 * (counts - 1)]
    words = _read(memory, starts)
    words &= np.where(counts == 1, tails, _TAIL[8])
    total = _mix((words ^ key) + GOLDEN)
    longer = np.flatnonzero(counts > 1)
    if longer.size:
        _add_further_words(total, longer, memory, starts, counts, tails, key)
    total += lengths.astype(np.uint64) * GOLDEN
    return _mix(total)


def _add_further_words(
    total: np.ndarray,
    longer: np.ndarray,
    memory: np.ndarray,
    starts: np.ndarray,
    counts: np.ndarray,
    tails: np.ndarray,
    key: np.ndarray,
) -> None:
    """Add what all words but the first give, to the rows ``longer`` of ``total``."""
    for row, size, before in _pieces(longer, counts[longer] - 1):
        begins = np.cumsum(size) - size
        place = np.arange(begins[-1] + size[-1]) + np.repeat(before - begins, size)
        factors = (place + 1).astype(np.uint64)
        place <<= 3
        place += np.repeat(starts[row], size)
        words = _read(memory, place)
        ended = before + size == counts[row]
        words[(begins + size - 1)[ended]] &= tails[row[ended]]
        words ^= key
        factors *= GOLDEN
        words += factors
        total[row] += np.add.reduceat(_mix(words), begins)


def _pieces(
    rows: np.ndarray, sizes: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Strings in pieces, so that memory is bounded whatever the longest string.

    Args:
        rows: Rows of the strings.
        sizes: Words of each but the first.

    Yields:
        Pieces to hash together, no two of one string: rows, words, and words before each.
    """
    if int(sizes.sum()) <= _PIECE:
        yield rows, sizes, np.ones_like(sizes)
        return
    pieces = -(-sizes // _PIECE)
    done = (np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)) * _PIECE
    rows, sizes = np.repeat(rows, pieces), np.repeat(sizes, pieces)
    sizes = np.minimum(sizes - done, _PIECE)
    # Pieces that begin in the same _PIECE words go together.
    group_of = (np.cumsum(sizes) - sizes) // _PIECE
    bounds = np.flatnonzero(np.diff(group_of, prepend=-1, append=group_of[-1] + 1))
    for first, last in pairwise(bounds.tolist()):
        yield rows[first:last], sizes[first:last], done[first:last] + 1


def _read(memory: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The words that begin at these bytes, each out of the two aligned words that hold it."""
    index = places >> 3
    shift = ((places & 7) << 3).astype(np.uint64)
    words = memory.take(index)
    words >>= shift
    index += 1
    above = memory.take(index)
    # In two steps, as a shift by all 64 bits is not defined.
    above <<= np.uint64(63) - shift
    above <<= np.uint64(1)
    words |= above
    return words
