"""ValueIndex: finds the places of values among many distinct ones, a whole column at a time.

An open-addressing table over 64-bit hashes: value ``i`` with hash ``h`` lies in the first slot free
among ``h mod slots``, the one after it, and so on; at least half the slots are empty. numpy probes
for all values of a column at once, and goes on with those not yet decided.

Values are told apart by their hashes alone. Those of the index are made sure to differ; a string
that is not in an index of n values passes for one that is with probability n / 2^64 or so, and an
integer never does.
"""

from __future__ import annotations

import numpy as np

__all__ = ["ValueIndex"]

_EMPTY = -1


class ValueIndex:
    """Places of values by their hashes.

    Memory: 24 to 48 bytes a value.

    Args:
        hashes: uint64 ``[n]``, all different.
    """

    def __init__(self, hashes: np.ndarray) -> None:
        slots = 1 << max(int(2 * len(hashes)).bit_length(), 4)
        self._mask = np.uint64(slots - 1)
        self._hashes = np.zeros(slots, np.uint64)
        self._places = np.full(slots, _EMPTY, np.int32)
        waiting = np.arange(len(hashes), dtype=np.int32)
        slot = self._first_slot(hashes)
        while waiting.size:
            free = self._places[slot] == _EMPTY
            self._places[slot[free]] = waiting[free]  # of several for one slot, one stays
            lost = self._places[slot] != waiting
            waiting, slot = waiting[lost], self._next(slot[lost])
        taken = self._places != _EMPTY
        self._hashes[taken] = hashes[self._places[taken]]

    def find(self, hashes: np.ndarray) -> np.ndarray:
        """Places of values among those of the index.

        Args:
            hashes: uint64 ``[n]``.

        Returns:
            int32 ``[n]``; -1 for a value that is not there.
        """
        slot = self._first_slot(hashes)
        result = self._places[slot]
        undecided = np.flatnonzero((self._hashes[slot] != hashes) & (result != _EMPTY))
        slot = slot[undecided]
        while undecided.size:
            slot = self._next(slot)
            found = self._places[slot]
            result[undecided] = found
            on = (found != _EMPTY) & (self._hashes[slot] != hashes[undecided])
            undecided, slot = undecided[on], slot[on]
        return result

    def _first_slot(self, hashes: np.ndarray) -> np.ndarray:
        return (hashes & self._mask).astype(np.int64)

    def _next(self, slots: np.ndarray) -> np.ndarray:
        return (slots + 1) & np.int64(self._mask)
