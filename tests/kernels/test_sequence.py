"""Sequences to samples and back, against a plain loop; and through a lookup and an update."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from kernels.errors import SpecError
from kernels.preprocessing.inputs import gather_inputs
from kernels.ragged import Ragged
from kernels.sequence import (
    flatten_sequences,
    sequence_feature_spec,
    unflatten_sequences,
)
from tests.kernels.support import Engine, table

type Batch = list[list[list[int]]]
type Cut = Literal["end", "start"]

POSITIONS = st.lists(st.integers(-1, 9), max_size=3)
BATCHES = st.lists(st.lists(POSITIONS, max_size=6), max_size=5)
CUTS = st.sampled_from(["end", "start"])


def plain(batch: Batch, length: int, cut: Cut) -> tuple[list[list[int]], list[list[bool]]]:
    """Ids of every row, padding left out, and the mask."""
    rows: list[list[int]] = []
    mask: list[list[bool]] = []
    for sequence in batch:
        sequence = [[i for i in position if i >= 0] for position in sequence]
        while sequence and not sequence[-1]:
            sequence = sequence[:-1]
        sequence = sequence[:length] if cut == "end" else sequence[-length:]
        sequence = sequence + [[]] * (length - len(sequence))
        rows += sequence
        mask.append([bool(position) for position in sequence])
    return rows, mask


def rows_of(ids: np.ndarray | Ragged) -> list[list[int]]:
    return [[int(i) for i in row if i >= 0] for row in ids]


def dense(batch: Batch) -> np.ndarray:
    result = np.full((len(batch), 6, 3), -1, np.int32)
    for b, sequence in enumerate(batch):
        for t, position in enumerate(sequence):
            result[b, t, : len(position)] = position
    return result


NESTED = pa.list_(pa.list_(pa.int64()))
FORMS: dict[str, Any] = {
    "lists": lambda batch: batch,
    "arrays": lambda batch: [[np.array(p, np.int32) for p in s] for s in batch],
    "dense": dense,
    "arrow": lambda batch: pa.array(batch, NESTED),
    "large": lambda batch: pa.array(batch, pa.large_list(pa.large_list(pa.int32()))),
    "slice": lambda batch: pa.array([[[5, 5], []], *batch, [[6]]], NESTED)[1:-1],
    "chunks": lambda batch: pa.chunked_array([pa.array(batch, NESTED), pa.array([], NESTED)]),
    "fixed": lambda batch: pa.FixedSizeListArray.from_arrays(
        pa.FixedSizeListArray.from_arrays(dense(batch).ravel(), 3), 6
    ),
}


@pytest.mark.parametrize("form", FORMS)
@given(batch=BATCHES, length=st.integers(1, 8), cut=CUTS)
@settings(max_examples=60)
def test_every_form_gives_the_rows_of_the_plain_loop(
    form: str, batch: Batch, length: int, cut: Cut
) -> None:
    flat = flatten_sequences(FORMS[form](batch), length, cut=cut)
    rows, mask = plain(batch, length, cut)
    assert len(flat.ids) == len(batch) * length
    assert rows_of(flat.ids) == rows
    assert flat.mask.shape == (len(batch), length)
    assert flat.mask.dtype == np.bool_
    assert flat.mask.tolist() == mask


@pytest.mark.parametrize("form", ["lists", "dense", "arrow", "slice"])
@given(batch=BATCHES, length=st.integers(1, 8), cut=CUTS)
@settings(max_examples=40)
def test_gains_go_where_their_ids_go(form: str, batch: Batch, length: int, cut: Cut) -> None:
    def gain(i: int) -> float:
        return i + 0.5

    if form == "dense":
        gains: Any = dense(batch) + 0.5
    else:
        gains = [[[gain(i) for i in position] for position in s] for s in batch]
        if form != "lists":
            gains = pa.array(gains, pa.list_(pa.list_(pa.float32())))
    flat = flatten_sequences(FORMS[form](batch), length, cut=cut, gains=gains)
    assert flat.gains is not None
    for ids, weights in zip(flat.ids, flat.gains, strict=True):
        assert weights.dtype == np.float32
        assert [gain(i) for i in ids if i >= 0] == [
            w for i, w in zip(ids, weights, strict=True) if i >= 0
        ]


@given(st.lists(st.lists(st.integers(-1, 9), max_size=6), max_size=5), st.integers(1, 8), CUTS)
def test_one_id_a_position(batch: list[list[int]], length: int, cut: Cut) -> None:
    values = np.array([i for sequence in batch for i in sequence], np.int64)
    offsets = np.cumsum([0, *map(len, batch)], dtype=np.int32)
    rows, mask = plain([[[i] for i in sequence] for sequence in batch], length, cut)
    padded = np.full((len(batch), 6), -1)
    for row, sequence in zip(padded, batch, strict=True):
        row[: len(sequence)] = sequence
    ragged_rows = np.empty(len(batch), object)
    ragged_rows[:] = [np.array(sequence, np.int32) for sequence in batch]
    for form in (
        batch,
        Ragged(values, offsets),
        padded,
        ragged_rows,
        pa.array(batch, pa.list_(pa.int32())),
    ):
        flat = flatten_sequences(form, length, cut=cut)
        assert rows_of(flat.ids) == rows
        assert flat.mask.tolist() == mask


def test_nothing_is_copied_where_nothing_is_cut() -> None:
    ids = np.arange(24, dtype=np.int32).reshape(2, 4, 3)
    assert np.shares_memory(flatten_sequences(ids, 4).ids, ids)
    lists = pa.array([[[1, 2], [3]], [], [[4]]], NESTED)
    values = lists.values.values.to_numpy()
    for array in (lists, lists[1:]):
        flat = flatten_sequences(array, 3).ids
        assert isinstance(flat, Ragged)
        assert np.shares_memory(flat.values, values)


def test_types_of_ids_are_kept() -> None:
    for kind in (np.int32, np.int64):
        assert flatten_sequences(np.zeros((1, 2), kind), 3).ids.dtype == kind
        flat = flatten_sequences(Ragged(np.zeros(3, kind), np.array([0, 3])), 2).ids
        assert flat.values.dtype == kind


@pytest.mark.parametrize(
    ("ids", "options", "problem"),
    [
        (np.zeros((2, 3), np.float32), {}, "ids are float32; give int32 or int64"),
        (np.zeros((2, 3, 4, 5), np.int32), {}, r"shape \(2, 3, 4, 5\); give \[batch, sequence"),
        (7, {}, "ids are int; give an array"),
        ([[1], 7], {}, "sequence 1: 7 is no sequence"),
        ([[["a"]]], {}, "ids are <U1"),
        ([[[[1], [2]]]], {}, r"sequence 0: \[\[1\], \[2\]\] is no position"),
        ([[[[1], [2, 3]]]], {}, "is no position"),
        (pa.array([[1, None]]), {}, "hold 1 nulls"),
        (pa.array([1, 2]), {}, "Arrow type int64; give lists"),
        (pa.array([[[[1]]]]), {}, "give lists of numbers, or lists of lists"),
        (np.full((1, 1), 2**63, np.uint64), {}, "9223372036854775808, which does not fit"),
        ([[1]], {"max_sequence_length": 0}, "max_sequence_length is 0"),
        ([[1]], {"max_sequence_length": 1.5}, "max_sequence_length is 1.5"),
        ([[1]], {"cut": "middle"}, "cut is 'middle'"),
        ([[1]], {"gains": [[1.0, 2.0]]}, "gains have another shape"),
        (np.zeros((2, 3), int), {"gains": np.zeros((2, 4))}, "gains have another shape"),
        ([[1]], {"gains": [["x"]]}, "gains are <U1; give float32"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(
    ids: Any, options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(SpecError, match=problem) as caught:
        flatten_sequences(ids, **{"max_sequence_length": 2, "feature": "clicks"} | options)
    assert "'clicks'" in str(caught.value)


def test_offsets_that_lie_are_refused() -> None:
    values = np.arange(4)
    for offsets in ([0, 5], [-1, 2], [0, 3, 2]):
        with pytest.raises(SpecError, match=r"outside 4 values|offsets must ascend"):
            Ragged(values, np.array(offsets))
    # Arrow itself looks at the last offset only.
    inner = pa.ListArray.from_buffers(
        pa.list_(pa.int64()),
        2,
        [None, pa.py_buffer(np.array([0, 2, 1], np.int32))],
        children=[pa.array([1, 2])],
    )
    lying = pa.ListArray.from_arrays(pa.array([0, 2], pa.int32()), inner)
    with pytest.raises(SpecError, match=r"'clicks'.* offsets must ascend"):
        flatten_sequences(lying, 2, feature="clicks")


def test_null_sequences_are_empty_ones() -> None:
    flat = flatten_sequences(pa.array([[1], None, [2]]), 1)
    assert rows_of(flat.ids) == [[1], [], [2]]


def test_activations_come_back_and_masked_gradients_are_zero() -> None:
    activations = jnp.arange(24.0).reshape(6, 4)
    mask = np.array([[True, True, False], [True, False, False]])

    @jax.jit
    def loss(flat: jax.Array) -> jax.Array:
        return jnp.sum(unflatten_sequences(flat, 3, mask) ** 2)

    back = jax.jit(lambda flat: unflatten_sequences(flat, 3))(activations)
    assert np.array_equal(back, np.arange(24.0).reshape(2, 3, 4))
    masked = unflatten_sequences(activations, 3, mask)
    assert np.array_equal(masked, np.where(mask[..., None], back, 0))
    assert np.array_equal(jax.grad(loss)(activations), 2 * np.asarray(masked).reshape(6, 4))
    # What is masked is gone even where it is not finite.
    broken = activations.at[2].set(jnp.nan)
    assert np.isfinite(loss(broken))
    assert np.isfinite(jax.grad(loss)(broken)).all()


def test_wrong_shapes_on_the_way_back() -> None:
    with pytest.raises(SpecError, match=r"shape \(5, 4\); give \[batch \* 3"):
        unflatten_sequences(jnp.zeros((5, 4)), 3)
    with pytest.raises(SpecError, match=r"mask has shape \(3, 2\), the sequences \(2, 3\)"):
        unflatten_sequences(jnp.zeros((6, 4)), 3, np.ones((3, 2), bool))


def test_specs_have_the_flattened_shapes() -> None:
    items = table("items", 50, 12)
    spec = sequence_feature_spec("clicks", items, 8, 5, valency=2)
    assert (spec.input_shape, spec.output_shape) == ((40, 2), (40, 12))
    assert sequence_feature_spec("clicks", items, 8, 5, columns=7).output_shape == (40, 7)


def test_preprocessing_takes_offsets_as_they_are() -> None:
    spec = sequence_feature_spec("clicks", table("items", 50), 2, 3, valency=2)
    ids, gains = pa.array([[[1, 2], [3]], []], NESTED), pa.array([[[1.0, 2.0], [3.0]], []])
    flat = flatten_sequences(ids, 3, gains=gains)
    assert isinstance(flat.ids, Ragged)
    (taken,) = gather_inputs({"clicks": flat.ids}, {"clicks": flat.gains}, {"clicks": spec})
    assert taken.samples == 6
    assert np.shares_memory(taken.ids, flat.ids.values)
    assert taken.offsets is not None
    assert taken.offsets.tolist() == [0, 2, 3, 3, 3, 3, 3]
    assert np.asarray(taken.gains).tolist() == [1.0, 2.0, 3.0]


def test_sequences_through_lookup_and_update() -> None:
    """Activations are those of the positions' ids; gradients of empty positions change no row."""
    items = table("items", 50)
    specs = {"clicks": sequence_feature_spec("clicks", items, 4, 3, valency=2)}
    engine = Engine(specs, devices=2, per_device=1)
    tables = engine.tables()
    rows = kernels.unstack_tables(engine.plan, tables)["items"]
    histories = [[[3], [4, 5]], [], [[7], [8], [9], [10]], [[3]]]
    flat = flatten_sequences(dense_of(histories), 3, cut="start")
    batch, _ = engine.encode({"clicks": flat.ids})
    activations = engine.lookup(batch, tables)["clicks"]
    sequences = unflatten_sequences(activations, 3)
    wanted = np.zeros((4, 3, 8))
    for b, history in enumerate(histories):
        for t, position in enumerate(history[-3:]):
            wanted[b, t] = rows[position].sum(axis=0)
    np.testing.assert_allclose(sequences, wanted, rtol=1e-5, atol=1e-7)

    gradients = np.where(flat.mask.reshape(-1, 1), 0.0, 1e6) * np.ones((1, 8), np.float32)
    updated = engine.update({"clicks": jnp.asarray(gradients, jnp.float32)}, batch, tables)
    assert np.array_equal(kernels.unstack_tables(engine.plan, updated)["items"], rows)


def dense_of(histories: Batch) -> np.ndarray:
    return dense([[*h] for h in histories])[:, :4, :2]
