"""Sequence features: every position of a sequence becomes a sample, and its activation comes back.

    histories [batch][positions][ids]
        │  flatten_sequences: cut or fill up to max_sequence_length
        ▼
    ids of batch * max_sequence_length samples ──preprocess, look up──► activations [samples, width]
    mask [batch, max_sequence_length]                                        │  unflatten_sequences
                                                                             ▼
                                                    [batch, max_sequence_length, width]

Sample ``b * max_sequence_length + t`` is position ``t`` of sequence ``b``. A position without ids
has the activation 0, and whatever gradient reaches it changes no row of a table: its buffers hold
no id to change. The flattening is that of the embedding specification's sequence features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from kernels.errors import SpecError
from kernels.ragged import Ragged
from kernels.sequence_forms import Sequences, read_sequences
from kernels.specs import FeatureSpec, TableSpec

__all__ = [
    "PADDING_ID",
    "FlatSequences",
    "flatten_sequences",
    "sequence_feature_spec",
    "unflatten_sequences",
]

PADDING_ID = -1
"""Id that fills up dense arrays: it is no row. Preprocessing refuses any other negative id."""


@dataclass(frozen=True, slots=True, eq=False)
class FlatSequences:
    """Sequences as samples of a feature.

    Attributes:
        ids: What preprocessing takes for the feature: an array ``[batch * max_sequence_length,
            valency]`` where the sequences were dense, otherwise `Ragged` of as many rows.
        gains: In the form of ``ids``, float32; None if none were given.
        mask: bool ``[batch, max_sequence_length]``: whether a position holds an id.
    """

    ids: np.ndarray | Ragged
    gains: np.ndarray | Ragged | None
    mask: np.ndarray


def flatten_sequences(
    ids: Any,
    max_sequence_length: int,
    *,
    gains: Any | None = None,
    cut: Literal["end", "start"] = "end",
    feature: str = "sequence",
) -> FlatSequences:
    """Make samples of the positions of sequences: one feature, the batch of this process.

    Short sequences are filled up at their end with positions without ids. Of a sequence that is
    too long, positions are cut off at the end, or at the start (to keep the latest of a history in
    order of time). A sequence ends at its last position that holds an id, so that padding counts
    nowhere.

    Memory: a dense array that is ``max_sequence_length`` long is not copied. Values with offsets
    (Arrow, `Ragged`) are not copied unless a sequence is cut; only the offsets are made anew.

    Args:
        ids: Sequences of positions, each with any number of ids, in one of these forms:
            int32 or int64 array ``[batch, sequence, valency]``, or ``[batch, sequence]`` with one
            id a position; Arrow lists of lists of integers, or lists of integers with one id a
            position (``List``, ``LargeList`` or ``FixedSizeList``); `Ragged` with one id a
            position; lists (or object arrays) of sequences, whose positions are integers, or lists
            or arrays of integers. The id -1 is padding. Lists cost a Python step per position.
        max_sequence_length: Positions of every sequence afterwards, at least 1.
        gains: Weights of the ids, in the form and shape of ``ids``.
        cut: Which end of a long sequence is lost.
        feature: Name for error messages.

    Returns:
        Ids, gains and mask. With ``max_sequence_length`` 3::

            [[[7], [8, 9]], []]  →  ids [[7], [8, 9], [], [], [], []]
                                    mask [[True, True, False], [False, False, False]]

    Raises:
        SpecError: A form, type or shape cannot be meant, or an argument is out of range.
    """
    _check_length(max_sequence_length, feature)
    if cut not in ("end", "start"):
        raise SpecError(f"feature '{feature}': cut is {cut!r}; give 'end' or 'start'")
    sequences = read_sequences(ids, feature, "ids")
    weights = None if gains is None else read_sequences(gains, feature, "gains")
    if weights is not None and not sequences.same_shape(weights):
        raise SpecError(
            f"feature '{feature}': its gains have another shape than its ids; give one gain per "
            "id, in the form of the ids"
        )
    if sequences.dense is not None:
        dense_gains = None if weights is None else weights.dense
        return _flatten_dense(sequences.dense, dense_gains, max_sequence_length, cut)
    return _flatten_ragged(sequences, weights, max_sequence_length, cut)


def unflatten_sequences(
    activations: jax.Array, max_sequence_length: int, mask: jax.Array | np.ndarray | None = None
) -> jax.Array:
    """Activations of positions, sequence by sequence; works under `jax.jit` and `jax.grad`.

    Args:
        activations: ``[batch * max_sequence_length, width]``.
        max_sequence_length: As it was given to `flatten_sequences`; static.
        mask: None, or bool ``[batch, max_sequence_length]``. Activations of masked positions and
            their gradients then are exactly 0, whatever the model does with them.

    Returns:
        ``[batch, max_sequence_length, width]``, a reshape without a copy. Under a mesh, the batch
        is split over the devices as the samples are.

    Raises:
        SpecError: If the samples are not whole sequences, or the mask has another shape.
    """
    _check_length(max_sequence_length, "activations")
    if activations.ndim != 2 or activations.shape[0] % max_sequence_length:
        raise SpecError(
            f"activations have shape {activations.shape}; give [batch * {max_sequence_length}, "
            "width], or the max_sequence_length the sequences were flattened with"
        )
    batch = activations.shape[0] // max_sequence_length
    result = activations.reshape(batch, max_sequence_length, activations.shape[1])
    if mask is None:
        return result
    if mask.shape != (batch, max_sequence_length):
        raise SpecError(
            f"the mask has shape {mask.shape}, the sequences {(batch, max_sequence_length)}; give "
            "the mask that flatten_sequences returned with them"
        )
    return jnp.where(jnp.asarray(mask, bool)[..., None], result, jnp.zeros((), result.dtype))


def sequence_feature_spec(
    name: str,
    table_spec: TableSpec,
    batch_size: int,
    max_sequence_length: int,
    *,
    valency: int = 1,
    columns: int | None = None,
) -> FeatureSpec:
    """The spec of a sequence feature: shapes of its flattened samples.

    Args:
        name: Name of the feature.
        table_spec: Table its ids are looked up in.
        batch_size: Sequences of a global batch.
        max_sequence_length: Positions of a sequence after flattening.
        valency: Most ids of a position.
        columns: Columns of the output; those of the table by default.

    Returns:
        A spec with ``input_shape`` ``(batch_size * max_sequence_length, valency)`` and
        ``output_shape`` ``(batch_size * max_sequence_length, columns)``.
    """
    _check_length(max_sequence_length, name)
    samples = batch_size * max_sequence_length
    return FeatureSpec(
        name=name,
        table_spec=table_spec,
        input_shape=(samples, valency),
        output_shape=(samples, table_spec.embedding_dim if columns is None else columns),
    )


def _check_length(length: int, feature: str) -> None:
    if isinstance(length, bool) or not isinstance(length, int | np.integer) or length < 1:
        raise SpecError(
            f"feature '{feature}': max_sequence_length is {length!r}; give a whole number of at "
            "least 1"
        )


def _flatten_dense(
    ids: np.ndarray, gains: np.ndarray | None, length: int, cut: str
) -> FlatSequences:
    batch, given, valency = ids.shape
    held = (ids >= 0).any(axis=2)
    if given > length and cut == "start":
        ends = np.where(held.any(axis=1), given - np.argmax(held[:, ::-1], axis=1), 0)
        kept = np.maximum(ends - length, 0)[:, None] + np.arange(length)
        ids, held = ids[np.arange(batch)[:, None], kept], np.take_along_axis(held, kept, axis=1)
        gains = None if gains is None else gains[np.arange(batch)[:, None], kept]
    elif given > length:
        ids, held = ids[:, :length], held[:, :length]
        gains = None if gains is None else gains[:, :length]
    elif given < length:
        missing = ((0, 0), (0, length - given), (0, 0))
        ids = np.pad(ids, missing, constant_values=PADDING_ID)
        held = np.pad(held, missing[:2])
        gains = None if gains is None else np.pad(gains, missing)
    samples = (batch * length, valency)
    return FlatSequences(
        ids.reshape(samples), None if gains is None else gains.reshape(samples), held
    )


def _flatten_ragged(
    sequences: Sequences, weights: Sequences | None, length: int, cut: str
) -> FlatSequences:
    values, position_offsets = sequences.values, sequences.position_offsets
    starts, ends = position_offsets[:-1], position_offsets[1:]
    batch = starts.size
    cut_any = bool((ends - starts > length).any())
    if cut_any and cut == "start":
        ends = _last_held(sequences, starts, ends)
        starts = np.maximum(ends - length, starts)
    kept = np.minimum(ends - starts, length)
    # Where each row begins and ends, as positions; rows beyond a sequence's end are empty.
    bounds = starts[:, None] + np.minimum(np.arange(length + 1), kept[:, None])
    bounds = bounds if sequences.id_offsets is None else sequences.id_offsets[bounds]
    first, last = bounds[:, 0], bounds[:, -1]
    picked = None
    if cut_any:
        sizes = last - first
        shifts = np.cumsum(sizes) - sizes
        picked = np.repeat(first - shifts, sizes) + np.arange(int(sizes.sum()))
        values = values[picked]
        bounds = bounds - (first - shifts)[:, None]
    end = bounds[-1:, -1] if batch else np.zeros(1, np.int64)
    offsets = np.concatenate([bounds[:, :-1].reshape(-1), end])
    rows = Ragged(values, offsets)
    gains = None
    if weights is not None:
        gains = Ragged(weights.values if picked is None else weights.values[picked], offsets)
    return FlatSequences(rows, gains, _held(rows).reshape(batch, length))


def _held(rows: Ragged) -> np.ndarray:
    """Whether each row holds an id that is not padding."""
    values = rows.values[rows.offsets[0] : rows.offsets[-1]]
    if not values.size or values.min() >= 0:
        return rows.offsets[1:] > rows.offsets[:-1]
    counts = np.concatenate([[0], np.cumsum(values >= 0)])[rows.offsets - rows.offsets[0]]
    return counts[1:] > counts[:-1]


def _last_held(sequences: Sequences, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The end of each sequence behind its last position with an id."""
    first, last = int(starts[0]), int(ends[-1])
    if sequences.id_offsets is None:
        held = sequences.values[first:last] >= 0
    else:
        held = _held(Ragged(sequences.values, sequences.id_offsets[first : last + 1]))
    behind = np.maximum.accumulate(np.where(held, np.arange(first, last) + 1, 0))
    behind = np.concatenate([[0], behind])[ends - first]
    return np.maximum(behind, starts)
