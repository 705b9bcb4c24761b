"""HighwayHash of 32-bit numbers, vectorised.

The 64-bit hash of J. Alakuijala, B. Cox and J. Wassenberg, "Fast keyed hash/pseudo-random function
using SIMD multiply and permute", 2016, https://arxiv.org/abs/1612.06257, of the four bytes of every
number, with the key that jax-tpu-embedding deals rows into minibatches with.
"""

from __future__ import annotations

import numpy as np

__all__ = ["HASH_KEY", "highway_hash"]

HASH_KEY: tuple[int, int, int, int] = (
    0x4451E30F87DB9609,
    0xCA7358A1FD2737F8,
    0x4B2C991FCEE4FDEA,
    0x0B2658E18326F6BA,
)
"""The key; it never changes."""

# The paper's initial states: digits of pi.
_FIRST = (0xDBE6D5D5FE4CCE2F, 0xA4093822299F31D0, 0x13198A2E03707344, 0x243F6A8885A308D3)
_SECOND = (0x3BD39E10CB0EF593, 0xC0ACF169B5F18A8C, 0xBE5466CF34E90C6C, 0x452821E638D01377)

_BYTES = 4
_ROUNDS_AT_END = 4
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)

_BLOCK = 8192  # numbers hashed at a time: their state stays in the processor's cache


def highway_hash(numbers: np.ndarray) -> np.ndarray:
    """The hashes of numbers.

    Args:
        numbers: ``[n]`` integers; they count modulo ``2**32``.

    Returns:
        ``[n]`` uint64.
    """
    hashes = np.empty(numbers.size, dtype=np.uint64)
    for start in range(0, numbers.size, _BLOCK):
        block = slice(start, start + _BLOCK)
        hashes[block] = _hash_block(numbers[block])
    return hashes


def _hash_block(numbers: np.ndarray) -> np.ndarray:
    state = _State(numbers.size)
    packet = np.zeros((4, numbers.size), dtype=np.uint64)
    packet[0] = numbers.astype(np.int64, copy=False).view(np.uint64) & _LOW
    state.update(packet)
    for _ in range(_ROUNDS_AT_END):
        state.update(_halves_swapped(state.v0[[2, 3, 0, 1]]))
    return state.v0[0] + state.v1[0] + state.mul0[0] + state.mul1[0]


class _State:
    """Four lanes of four registers, for every number."""

    def __init__(self, count: int) -> None:
        first = np.array(_FIRST, dtype=np.uint64)
        second = np.array(_SECOND, dtype=np.uint64)
        key = np.array(HASH_KEY, dtype=np.uint64)
        # A packet that is not full mixes its length in, before its bytes.
        v0 = (first ^ key) + np.uint64((_BYTES << 32) + _BYTES)
        v1 = (second ^ _halves_swapped(key)).view(np.uint32)
        v1 = ((v1 << np.uint32(_BYTES)) | (v1 >> np.uint32(32 - _BYTES))).view(np.uint64)
        self.v0, self.v1, self.mul0, self.mul1 = (
            np.repeat(lanes[:, None], count, axis=1) for lanes in (v0, v1, first, second)
        )

    def update(self, packet: np.ndarray) -> None:
        self.v1 += self.mul0 + packet
        self.mul0 ^= (self.v1 & _LOW) * (self.v0 >> _HALF)
        self.v0 += self.mul1
        self.mul1 ^= (self.v0 & _LOW) * (self.v1 >> _HALF)
        self.v0 += _zipped(self.v1)
        self.v1 += _zipped(self.v0)


def _halves_swapped(lanes: np.ndarray) -> np.ndarray:
    return (lanes >> _HALF) | (lanes << _HALF)


def _zipped(lanes: np.ndarray) -> np.ndarray:
    """``[4, n]``: the paper's "zipper merge" of lanes 0 and 1, and of lanes 2 and 3.

    The 16 bytes of a pair, lowest first, become those numbered
    3 12 2 5 14 1 15 0 and 11 4 10 13 9 6 8 7.
    """
    even, odd = lanes[::2], lanes[1::2]
    zipped = np.empty_like(lanes)
    zipped[::2] = (_bytes(even, 3) | _bytes(odd, 4)) >> _shift(3)
    zipped[::2] |= (_bytes(even, 5) | _bytes(odd, 6)) >> _shift(2)
    zipped[::2] |= _bytes(even, 2) | (_bytes(even, 1) << _shift(4))
    zipped[::2] |= (_bytes(odd, 7) >> _shift(1)) | (even << _shift(7))
    zipped[1::2] = (_bytes(odd, 3) | _bytes(even, 4)) >> _shift(3)
    zipped[1::2] |= _bytes(odd, 2) | (_bytes(odd, 5) >> _shift(2))
    zipped[1::2] |= (_bytes(odd, 1) << _shift(3)) | (_bytes(even, 6) >> _shift(1))
    zipped[1::2] |= (_bytes(odd, 0) << _shift(6)) | _bytes(even, 7)
    return zipped


def _bytes(lanes: np.ndarray, number: int) -> np.ndarray:
    """The lanes with one of their bytes only."""
    return lanes & np.uint64(0xFF << 8 * number)


def _shift(count: int) -> np.uint64:
    """Bits of a number of bytes."""
    return np.uint64(8 * count)
