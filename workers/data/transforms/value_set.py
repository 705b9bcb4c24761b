"""ValueSet: the distinct values of a vocabulary, in the order of their ids."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from itertools import count

import numpy as np
import pyarrow as pa

from workers.data.transforms.columns import MOST_ROWS, is_text, plain
from workers.data.transforms.hashing import hash_values
from workers.data.transforms.value_index import ValueIndex
from workers.errors import DataError

__all__ = ["ValueSet"]


class ValueSet:
    """Distinct strings or integers; value ``k`` has id ``k``.

    Equal, and written alike, if the values and their order are.

    Args:
        values: Strings or integers.
        source: Where they are from, for errors.

    Example:
        >>> ValueSet(["red", "green"])
        ValueSet(2 strings, ff7e3e5d3e3cf5bb)

    Raises:
        DataError: There is none, one is null or there twice, or they are of another type.
    """

    def __init__(self, values: Sequence[str | int] | pa.Array, source: str = "vocabulary") -> None:
        try:
            array: pa.Array = values if isinstance(values, pa.Array) else pa.array(values)
            strings = is_text(array.type)
            if strings or pa.types.is_integer(plain(array.type)):
                array = array.cast(pa.large_string() if strings else pa.int64())
        except (pa.ArrowException, OverflowError) as error:
            raise DataError(
                f"{source}: its values cannot be read as strings or 64-bit integers: {error}"
            ) from error
        if not strings and not pa.types.is_integer(array.type):
            raise DataError(f"{source}: values are {array.type}; give strings or integers")
        if not 0 < len(array) < MOST_ROWS:
            raise DataError(f"{source}: it has {len(array)} values; give 1 to {MOST_ROWS - 1}")
        if array.null_count:
            place = int(np.argmax(array.is_null().to_numpy(zero_copy_only=False)))
            raise DataError(f"{source}: value {place + 1} is null; leave it out")
        self.values: pa.Array = array
        self.source = source
        hashes = hash_values(array)
        self._digest = hashlib.sha256(hashes.astype("<u8").tobytes()).hexdigest()[:16]
        self.seed = self._separating_seed(hashes)

    @property
    def strings(self) -> bool:
        """Whether values are strings; otherwise they are integers."""
        return pa.types.is_large_string(self.values.type)

    def __len__(self) -> int:
        return len(self.values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ValueSet) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        return f"ValueSet({len(self)} {'strings' if self.strings else 'integers'}, {self._digest})"

    def __reduce__(self) -> tuple[type[ValueSet], tuple[pa.Array, str]]:
        return type(self), (self.values, self.source)

    def find(self, values: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """int32 ``[n]``: ids of values, -1 for one that is not there; of nulls, anything."""
        return self._index.find(hash_values(values, self.seed))

    @cached_property
    def _index(self) -> ValueIndex:
        return ValueIndex(hash_values(self.values, self.seed))

    def _separating_seed(self, hashes: np.ndarray) -> int:
        """The first seed with which no two values have the same hash; nearly always 0."""
        for seed in count():
            hashes = hash_values(self.values, seed) if seed else hashes
            order = np.argsort(hashes, kind="stable")
            same = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
            for one, other in zip(order[same].tolist(), order[same + 1].tolist(), strict=True):
                if self.values[one] == self.values[other]:
                    raise DataError(
                        f"{self.source}: {self.values[one].as_py()!r} is there twice, as values "
                        f"{one + 1} and {other + 1}; keep one"
                    )
            if not same.size:
                return seed
        raise AssertionError("unreachable")
