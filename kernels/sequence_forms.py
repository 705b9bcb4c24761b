"""The forms a batch of sequences may come in, read into one: see `kernels.sequence`.

    array [batch, sequence, valency] or [batch, sequence]      dense
    Arrow lists of (lists of) numbers, `Ragged`                values and offsets, not copied
    lists or object arrays of sequences                        values and offsets, gathered

Arrow arrays are known by their attributes, so that pyarrow need not be there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from kernels.errors import SpecError
from kernels.ragged import Ragged

__all__ = ["Sequences", "read_sequences"]


@dataclass(frozen=True, slots=True, eq=False)
class Sequences:
    """A batch of sequences: either ``dense``, or values and offsets that start at 0."""

    dense: np.ndarray | None
    """``[batch, sequence, valency]``."""
    values: np.ndarray
    """``[n]``: ids or gains."""
    id_offsets: np.ndarray | None
    """int64 ``[positions + 1]``: the values of a position; None: each has one."""
    position_offsets: np.ndarray
    """int64 ``[batch + 1]``: the positions of a sequence."""

    def same_shape(self, other: Sequences) -> bool:
        """Whether value ``k`` of one belongs where value ``k`` of the other does."""
        if self.dense is not None and other.dense is not None:
            return self.dense.shape == other.dense.shape
        if self.dense is not None or other.dense is not None:
            return False
        ours, theirs = self.id_offsets, other.id_offsets
        same_ids = ours is theirs or (
            ours is not None and theirs is not None and np.array_equal(ours, theirs)
        )
        return same_ids and np.array_equal(self.position_offsets, other.position_offsets)


def read_sequences(value: Any, feature: str, what: str) -> Sequences:
    """A batch of sequences in any of the forms.

    Args:
        value: ``ids`` or ``gains`` of `kernels.sequence.flatten_sequences`.
        feature: Name for errors.
        what: ``ids`` (integers) or ``gains`` (floats).

    Raises:
        SpecError: The form, the type or the shape cannot be meant.
    """
    where = f"feature '{feature}': its {what}"
    if isinstance(value, np.ndarray) and value.dtype != object:
        return _read_dense(value, where, what)
    if isinstance(value, Ragged):
        levels, values = [value.offsets], value.values
    elif hasattr(value, "null_count"):
        levels, values = _read_arrow(value, where)
    elif isinstance(value, np.ndarray | list | tuple):
        levels, values = _read_rows(value, where, what)
    else:
        raise SpecError(
            f"{where} are {type(value).__name__}; give an array, Arrow lists, Ragged, or a list "
            "of sequences"
        )
    values = _typed(values, where, what)
    try:
        return _from_zero(levels, values)
    except SpecError as error:
        raise SpecError(f"{where} cannot be read: {error}") from error


def _from_zero(levels: list[np.ndarray], values: np.ndarray) -> Sequences:
    """Offsets of one or two levels of lists, made to start at 0; values are views."""
    positions = levels[0].astype(np.int64)
    below = levels[-1] if len(levels) == 2 else values
    below = Ragged(below, positions).values[positions[0] : positions[-1] + len(levels) - 1]
    positions -= positions[0]
    if len(levels) == 1:
        return Sequences(None, below, None, positions)
    ids = below.astype(np.int64)
    values = Ragged(values, ids).values[ids[0] : ids[-1]]
    return Sequences(None, values, ids - ids[0], positions)


def _read_dense(value: np.ndarray, where: str, what: str) -> Sequences:
    if value.ndim not in (2, 3):
        raise SpecError(
            f"{where} have shape {value.shape}; give [batch, sequence, valency], or "
            "[batch, sequence] with one id a position"
        )
    dense = _typed(value, where, what)
    none = np.zeros(1, np.int64)
    return Sequences(dense if dense.ndim == 3 else dense[..., None], dense[:0], None, none)


def _read_arrow(value: Any, where: str) -> tuple[list[np.ndarray], np.ndarray]:
    """Offsets of one or two levels of lists, and the numbers below them."""
    levels: list[np.ndarray] = []
    array = value
    while True:
        if hasattr(array, "combine_chunks"):  # a ChunkedArray; one chunk is not copied
            array = array.chunk(0) if array.num_chunks == 1 else array.combine_chunks()
        list_size = getattr(array.type, "list_size", None)
        if list_size is None and not hasattr(array, "offsets"):
            break
        if list_size is not None:
            _refuse_nulls(array, where)
            levels.append(np.arange(len(array) + 1, dtype=np.int64) * list_size)
            array = array.flatten()
            continue
        offsets = array.offsets.to_numpy(zero_copy_only=False)
        # A null list may cover values all the same; only then it cannot pass for an empty one.
        if array.null_count and np.diff(offsets)[np.asarray(array.is_null())].any():
            _refuse_nulls(array, where)
        levels.append(offsets)
        array = array.values
    _refuse_nulls(array, where)
    if len(levels) not in (1, 2) or not hasattr(array, "to_numpy"):
        raise SpecError(
            f"{where} have the Arrow type {value.type}; give lists of numbers, or lists of lists "
            "of numbers"
        )
    return levels, array.to_numpy(zero_copy_only=False)


def _refuse_nulls(array: Any, where: str) -> None:
    if array.null_count:
        raise SpecError(
            f"{where} hold {array.null_count} nulls; fill them with pyarrow.compute.fill_null, or "
            "leave them out (the id -1 is padding)"
        )


def _read_rows(rows: Any, where: str, what: str) -> tuple[list[np.ndarray], np.ndarray]:
    """Gather sequences whose positions are numbers, or collections of numbers."""
    position_counts: list[int] = []
    id_counts: list[int] = []
    parts: list[np.ndarray] = []
    for number, sequence in enumerate(rows):
        if not isinstance(sequence, list | tuple | np.ndarray) or (
            isinstance(sequence, np.ndarray) and not sequence.ndim
        ):
            raise SpecError(
                f"{where}, sequence {number}: {sequence!r} is no sequence; give a list of "
                "positions, each an id or a list of ids"
            )
        position_counts.append(len(sequence))
        if isinstance(sequence, np.ndarray) and sequence.ndim == 1 and sequence.dtype != object:
            id_counts += [1] * sequence.size
            parts.append(sequence)
            continue
        for position in sequence:
            part = _position(position, f"{where}, sequence {number}")
            id_counts.append(part.size)
            parts.append(part)
    # An empty list has no type of its own and must not make the ids floats.
    parts = [part for part in parts if part.size]
    values = np.concatenate(parts) if parts else np.zeros(0, np.int64)
    return [_offsets(position_counts), _offsets(id_counts)], values


def _position(position: Any, where: str) -> np.ndarray:
    try:
        values = np.asarray(position)
    except ValueError:  # lists of different lengths, one level too deep
        values = np.zeros((0, 0))
    if values.ndim > 1:
        raise SpecError(f"{where}: {position!r} is no position; give an id or a list of ids")
    return values.reshape(-1)


def _offsets(counts: list[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def _typed(values: np.ndarray, where: str, what: str) -> np.ndarray:
    """Ids as int32 or int64, gains as float32; a view where the type is right already."""
    kind = values.dtype.kind
    if what == "gains":
        # ml_dtypes' bfloat16 and its like are of kind V.
        if kind not in "iufbV":
            raise SpecError(f"{where} are {values.dtype}; give float32")
        return values.astype(np.float32, copy=False)
    if values.dtype in (np.dtype(np.int32), np.dtype(np.int64)):
        return values
    if kind not in "iu" and values.size:
        raise SpecError(f"{where} are {values.dtype}; give int32 or int64")
    if values.dtype == np.uint64 and values.size and values.max() > np.iinfo(np.int64).max:
        raise SpecError(f"{where} hold {values.max()}, which does not fit int64; hash the ids")
    return values.astype(np.int64)
