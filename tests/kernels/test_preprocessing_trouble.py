"""Input that cannot be meant is refused, by name; both engines in the same words."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

import kernels
from tests.kernels.preprocessing_cases import (
    encode_directly,
    offsets_input,
    one_feature,
    preprocessing_engine,
    ragged,
)
from tests.kernels.support import Engine, feature, random_ids, several_features, table

__all__ = ["preprocessing_engine"]

BIG = 2**31


IDS = np.array([[1, 2, 3], [4, -1, 5], [6, 7, 8], [9, 10, 11]])
GAINS = np.ones((4, 3))


def changed(array: np.ndarray, sample: int, place: int, value: float) -> np.ndarray:
    array = array.copy()
    array[sample, place] = value
    return array


@pytest.mark.parametrize("value", [30, 31, BIG, BIG + 5, 2**40, -2, -BIG, -(2**40), 2**63 - 1])
@pytest.mark.parametrize("form", ["dense", "rows", "list", "arrow", "fixed"])
def test_an_id_out_of_range_is_named(value, form):
    dense = changed(IDS, 2, 1, value)
    ids = {
        "dense": dense,
        "rows": ragged(dense, np.int64),
        "list": dense.tolist(),
        "arrow": pa.array(dense.tolist(), pa.list_(pa.int64())),
        "fixed": pa.array(dense.tolist(), pa.list_(pa.int64(), 3)),
    }[form]
    with pytest.raises(kernels.SpecError) as caught:
        one_feature().encode({"f": ids})
    assert str(caught.value) == (
        f"feature 'f': sample 2 holds id {value}, but table 'items' has vocabulary_size 30; ids "
        "must be 0 to 29: enlarge the table, or hash or clip the ids (only -1 is padding)"
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("combiner", ["sum", "mean", "sqrtn"])
@pytest.mark.parametrize("form", ["dense", "rows", "arrow"])
@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_a_gain_that_is_not_finite_is_named(value, combiner, form):
    dense = changed(GAINS, 1, 2, value)
    ids, gains = {
        "dense": (IDS, dense),
        "rows": (ragged(IDS, np.int32), ragged(dense, np.float64)),
        "arrow": tuple(
            pa.array(values.tolist(), pa.list_(kind))
            for values, kind in ((IDS, pa.int32()), (dense, pa.float64()))
        ),
    }[form]
    with pytest.raises(kernels.SpecError) as caught:
        one_feature(combiner).encode({"f": ids}, {"f": gains})
    shown = np.float32(value) if np.isnan(value) else np.inf * np.sign(value)
    assert str(caught.value) == (
        f"feature 'f': sample 1 holds the gain {shown}; gains must be finite float32: leave the id "
        "out, or give it a gain of 0"
    )
    # At padding no gain counts.
    one_feature(combiner).encode({"f": IDS}, {"f": changed(GAINS, 1, 1, value)})


def test_gains_that_cancel_are_refused_and_gains_of_zero_count_nothing():
    engine = one_feature("mean", 2, 2)
    ids = {"f": np.array([[1, 2], [3, 4]])}
    with pytest.raises(kernels.SpecError, match="gains of sample 1 sum to 0, so the combiner"):
        engine.encode(ids, {"f": np.array([[1.0, 1.0], [1.0, -1.0]])})
    batch, _ = engine.encode(ids, {"f": np.array([[1.0, 1.0], [0.0, 0.0]])})
    used = batch.lhs_gains["items"][~np.isnan(batch.lhs_gains["items"])]
    assert sorted(used.tolist()) == [0.0, 0.0, 0.5, 0.5]
    with pytest.raises(kernels.SpecError, match="gains of sample 0 sum to inf"):
        engine.encode(ids, {"f": np.array([[3e38, 3e38], [1.0, 1.0]])})
    for large in (2e19, 3e38):
        with pytest.raises(kernels.SpecError, match="gains of sample 1 squares sum to inf"):
            one_feature("sqrtn", 2, 2).encode(ids, {"f": np.array([[1.0, 1.0], [large, 1.0]])})


def test_the_first_trouble_is_named_whatever_else_there_is():
    of = table("items", 30, combiner="mean")
    specs = {name: feature(name, of, 64, 4) for name in ("a", "b", "c")}
    engine = Engine(specs, 2, 2)
    rng = np.random.default_rng(0)
    ids = {name: rng.integers(0, 30, (64, 4)) for name in specs}
    gains = {name: rng.uniform(1, 2, (64, 4)) for name in specs}
    ids["c"][0, 0] = 99
    gains["b"][50, 1:] = np.nan
    gains["b"][2, 3] = np.inf
    gains["b"][1] = [1, -1, 1, -1]
    message = r"'b': sample 2 holds the gain inf"
    with pytest.raises(kernels.SpecError, match=message):
        engine.encode(ids, gains)
    ids["b"][63, 3] = -7
    ids["b"][40, 2] = 31
    ids["b"][40, 3] = 32
    with pytest.raises(kernels.SpecError, match=r"'b': sample 40 holds id 31"):
        engine.encode(ids, gains)


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([0, 2, 1, 3, 4], "sample 1 holds the ids 2 to 1 of 6"),
        ([0, 2, 3, 4, 7], "sample 3 holds the ids 4 to 7 of 6"),
        ([-1, 2, 3, 4, 5], "sample 0 holds the ids -1 to 2 of 6"),
        ([0, 2, 2**40, 4, 5], "sample 1 holds the ids 2 to 1099511627776 of 6"),
        ([7, 7, 7, 7, 7], "sample 0 holds the ids 7 to 7 of 6"),
        ([0, -(2**62), 0, 2**62, 6], "sample 0 holds the ids 0 to -4611686018427387904 of 6"),
    ],
)
def test_offsets_that_lie_are_refused(offsets, message, preprocessing_engine):
    with pytest.raises(kernels.SpecError, match=message):
        encode_directly(offsets_input(offsets), preprocessing_engine)


def test_offsets_beyond_the_gains_are_refused(preprocessing_engine):
    with pytest.raises(kernels.SpecError, match="sample 3 holds the ids 4 to 6 of 5"):
        encode_directly(offsets_input([0, 1, 2, 4, 6], gains=5), preprocessing_engine)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([0, 1, 2, 4], "index 3 names sample 4, but there are 4 samples on this process"),
        ([-1, 1, 2, 3], "index 0 names sample -1"),
        ([0, 2, 1, 3], "index 2 names sample 1 after sample 2; sort indices and values"),
        ([0, 2**40, 1, 3], "index 1 names sample 1099511627776"),
    ],
)
def test_indices_of_sparse_tensors_are_checked(samples, message):
    engine = one_feature(samples=4)
    indices = np.array([[sample, 0] for sample in samples])
    trees = ({"f": indices}, {"f": np.arange(4)}, {"f": [4, 3]})
    with pytest.raises(kernels.SpecError, match=message):
        kernels.preprocess_sparse_dense_matmul_input_from_sparse_tensor(
            *trees, engine.placed, 1, 1, num_sc_per_device=2
        )


def test_sparse_tensors_of_wrong_shape_are_refused():
    engine = one_feature(samples=4)
    indices, values = np.array([[0, 0], [2, 1]]), np.array([1, 2])
    for wrong in (
        (indices[:, :1], values, [4, 3]),
        (indices, values[:1], [4, 3]),
        (indices, values, [4]),
        (indices.astype(float), values, [4, 3]),
        (indices, values.astype(float), [4, 3]),
        (indices, values, [8, 3]),
        (indices, np.array([1, 30]), [4, 3]),
    ):
        with pytest.raises(kernels.SpecError, match="feature 'f'"):
            kernels.preprocess_sparse_dense_matmul_input_from_sparse_tensor(
                *({"f": part} for part in wrong), engine.placed, 1, 1, num_sc_per_device=2
            )


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[1], [2.5], [3], [4]], "ids of sample 1 are float64; give int32 or int64"),
        ([[1], ["a"], [3], [4]], "ids of sample 1 are <U1"),
        ([[1], [[2, 3]], [3], [4]], r"ids of sample 1 are \[\[2, 3\]\]; give a one-dim"),
        ([[1], 2, [3], [4]], "ids of sample 1 are 2; give a one-dimensional array"),
        ([[1], [2, [3]], [3], [4]], r"ids of sample 1 are \[2, \[3\]\]"),
        ([[1], None, [3], [4]], "ids of sample 1 are None"),
        ([[1], np.array([2**63], np.uint64), [3], [4]], f"sample 1 holds id {2**63}"),
    ],
)
def test_rows_that_are_no_lists_of_numbers_are_refused(rows, message):
    with pytest.raises(kernels.SpecError, match=f"feature 'f'.*{message}"):
        one_feature(valency=None).encode({"f": rows})


def test_rows_of_gains_must_be_as_long_as_those_of_ids():
    engine = one_feature(valency=None)
    rows = [[1], [2, 3], [], [4]]
    with pytest.raises(kernels.SpecError, match="'f': sample 1 holds 2 ids but 1 gains"):
        engine.encode({"f": rows}, {"f": [[1.0], [1.0], [1.0], [1.0]]})
    with pytest.raises(kernels.SpecError, match="'f': its gains have another shape"):
        engine.encode({"f": rows}, {"f": [[1.0], [1.0, 2.0], []]})
    with pytest.raises(kernels.SpecError, match="gains of sample 3 are <U1; give float32"):
        engine.encode({"f": rows}, {"f": [[1.0], [1.0, 2.0], [], ["a"]]})
    arrow = pa.array(rows, pa.list_(pa.int32()))
    with pytest.raises(kernels.SpecError, match="'f': its gains have another shape"):
        engine.encode({"f": arrow}, {"f": pa.array([[1.0], [1.0], [2.0], [1.0]])})


def test_inputs_that_cannot_be_meant_are_refused():
    specs = several_features(16)
    engine = Engine(specs, 2)
    ids = random_ids(specs, 0)
    for wrong, message in (
        (ids["day"][:8], r"8 samples on this process.*means 16"),
        (ids["day"].astype(np.float32), "float32; give int32 or int64"),
        (ids["day"].astype(np.complex64), "complex64; give int32 or int64"),
        (ids["day"].astype(str), "give int32 or int64"),
        (ids["day"].reshape(2, 8, 1), r"shape \(2, 8, 1\)"),
        (np.array(3), r"shape \(\)"),
        (ids["day"].astype(np.uint64) + 2**63, "uint64 id .* does not fit int64"),
        (pa.array([[None]] * 16, pa.list_(pa.int32())), "hold 16 nulls"),
        (pa.array([["a"]] * 16), "'day': ids are object; give int32 or int64"),
        (pa.array(["a"] * 16), "'day': the ids of sample 0 are 'a'"),
        (pa.array([[[1]]] * 16), "one list of numbers per sample"),
    ):
        with pytest.raises(kernels.SpecError, match=message):
            engine.encode(ids | {"day": wrong})
    with pytest.raises(kernels.SpecError, match="structure of feature_specs"):
        engine.encode({name: value for name, value in ids.items() if name != "day"})
    with pytest.raises(kernels.SpecError, match="one gain per id"):
        engine.encode(ids, {n: np.ones((len(v), 1)) for n, v in ids.items()})
    with pytest.raises(kernels.SpecError, match="structure of feature_specs"):
        engine.encode(ids, {"day": np.ones((16, 1))})
    with pytest.raises(kernels.SpecError, match="use 'MOD'"):
        engine.encode(ids, sharding_strategy="DIV")
    with pytest.raises(kernels.SpecError, match="does not divide"):
        kernels.preprocess_sparse_dense_matmul_input(
            ids, None, engine.placed, 3, 4, num_sc_per_device=1
        )
    with pytest.raises(kernels.SpecError, match="not stacked"):
        kernels.preprocess_sparse_dense_matmul_input(ids, None, specs, 1, 1, num_sc_per_device=1)


def test_what_positions_cannot_count_is_refused():
    of = table("t", 30)
    spec = feature("f", of, 2**26, 1)
    engine = Engine({"f": feature("f", of, 8, 1)}, 1, 1)
    spec.table_spec.stacked_table_spec = engine.placed["f"].table_spec.stacked_table_spec
    many = np.broadcast_to(np.int32(0), (2**26, 1))
    message = "exceeds the maximum limit supported by the SparseCore CooFormat"
    with pytest.raises(ValueError, match=message):
        kernels.preprocess_sparse_dense_matmul_input(
            [many], None, [spec], 1, 1, num_sc_per_device=1
        )
    stack = spec.table_spec.stacked_table_spec.replace(
        max_ids_per_partition=2**30, suggested_coo_buffer_size_per_device=None
    )
    engine.placed["f"].table_spec.stacked_table_spec = stack
    with pytest.raises(kernels.SpecError, match="stack 't': a buffer of 68719476736 entries"):
        engine.encode({"f": np.zeros((8, 1), np.int32)}, enable_minibatching=True)
