"""Rows packed into words: the same examples come out, in any order, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.data import packed
from workers.data.examples import Examples, Schema
from workers.data.packed import RowLayout
from workers.data.transforms import Ids, Lists, Number


def some_examples(valencies: list[int], dense: int, rows: int, seed: int) -> Examples:
    generator = np.random.default_rng(seed)

    def floats(*shape: int) -> np.ndarray:
        # All bit patterns: infinities and every NaN too.
        return generator.integers(-(2**31), 2**31, shape, np.int32).view(np.float32)

    ids = {
        f"f{place}": generator.integers(-1, 2**31 - 1, (rows, valency), np.int32)
        for place, valency in enumerate(valencies)
    }
    return Examples(ids, floats(rows, dense), floats(rows), floats(rows))


def bits(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).view(np.int32)


@given(
    valencies=st.lists(st.integers(1, 5), max_size=4),
    dense=st.integers(0, 3),
    rows=st.integers(0, 40),
    block_bytes=st.integers(1, 400),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
@settings(max_examples=80, deadline=None)
def test_what_was_packed_comes_out(
    valencies: list[int], dense: int, rows: int, block_bytes: int, seed: int, data: st.DataObject
) -> None:
    examples = some_examples(valencies, dense, rows, seed)
    layout = RowLayout(tuple((f"f{n}", valency) for n, valency in enumerate(valencies)), dense)
    places = st.lists(st.integers(0, rows - 1), max_size=60) if rows else st.just([])
    order = np.array(data.draw(places), int)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed, "BLOCK_BYTES", block_bytes)
        matrix = layout.pack(examples)
        assert matrix.shape == (rows, layout.words)
        assert matrix.nbytes == rows * layout.row_bytes
        for chosen, found in (
            (np.arange(rows), layout.unpack(matrix)),
            (order, layout.unpack(matrix, order)),
        ):
            assert found.ids.keys() == examples.ids.keys()
            for name, ids in examples.ids.items():
                np.testing.assert_array_equal(found.ids[name], ids[chosen])
                assert found.ids[name].flags.c_contiguous
            for name in ("dense", "labels", "weights"):
                got, want = getattr(found, name), getattr(examples, name)[chosen]
                np.testing.assert_array_equal(bits(got), bits(want))
                assert got.dtype == np.float32
                assert got.flags.c_contiguous


def test_the_layout_follows_the_schema() -> None:
    features = (("a", Ids("a", 9)), ("b", Lists(Ids("b", 9), valency=3)))
    schema = Schema(features, (Number("x"), Number("y")), "label")
    layout = RowLayout.of(schema)
    assert layout == RowLayout((("a", 1), ("b", 3)), 2)
    assert layout.row_bytes == 4 * (4 + 2 + 2)
    padding = layout.unpack(layout.pack(schema.empty(2)))
    assert (padding.ids["b"] == -1).all()
    assert not padding.weights.any()
