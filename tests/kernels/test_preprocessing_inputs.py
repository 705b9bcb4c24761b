"""All forms of input that mean the same give the same buffers; sparse tensors, the peer's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from kernels.preprocessing.inputs import align
from tests.kernels import peer
from tests.kernels.preprocessing_cases import (
    MESHES,
    assert_same_batches,
    assert_same_buffers,
    partition,
    preprocessing_engine,
    ragged,
)
from tests.kernels.support import Engine, feature, table

__all__ = ["preprocessing_engine"]


def sparse(rows: list[np.ndarray], valency: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices, values and dense shape."""
    indices = [(sample, place) for sample, row in enumerate(rows) for place in range(len(row))]
    values = np.concatenate(rows) if rows else np.zeros(0, np.int32)
    shape = np.array([len(rows), valency])
    return np.array(indices, np.int64).reshape(-1, 2), values.astype(np.int32), shape


def sliced(array: Any) -> Any:
    """An equal Arrow array whose memory begins elsewhere."""
    if isinstance(array.type, pa.FixedSizeListType):
        filler = pa.array([[5] * array.type.list_size], type=array.type)
    else:
        filler = pa.array([[5, 6, 7]], type=array.type)
    return pa.concat_arrays([filler, array, filler])[1:-1]


def forms(rows: list[np.ndarray], dtype: type) -> dict[str, Any]:
    """The same samples in every form."""
    kind = pa.from_numpy_dtype(dtype)
    lists = [row.tolist() for row in rows]
    longest = max((len(row) for row in rows), default=0)
    padded = [row + [-1] * (longest - len(row)) for row in lists]
    dense = np.array(padded, dtype).reshape(len(rows), longest)
    arrow = pa.array(lists, pa.list_(kind))
    large = pa.array(lists, pa.large_list(kind))
    result = {
        "object array": ragged(rows, dtype),
        "list of arrays": [np.asarray(row, dtype) for row in rows],
        "tuple of lists": tuple(lists),
        "ListArray": arrow,
        "sliced ListArray": sliced(arrow),
        "LargeListArray": large,
        "sliced LargeListArray": sliced(large),
        "chunked": pa.chunked_array([arrow]),
        "two chunks": pa.chunked_array([arrow[:1], arrow[1:]]),
        "dense": dense,
        "dense by columns": np.asfortranarray(dense),
        "every other column": np.repeat(dense, 2, axis=1)[:, ::2],
        "int16": dense.astype(np.int16),
        "dense object array": dense.astype(object),
    }
    if longest:
        fixed = pa.array(padded, pa.list_(kind, longest))
        result |= {"FixedSizeListArray": fixed, "sliced FixedSizeListArray": sliced(fixed)}
    return result


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["sum", "mean", "sqrtn"]),
    st.sampled_from([np.int32, np.int64]),
    st.booleans(),
)
@settings(max_examples=15, deadline=None)
def test_all_forms_mean_the_same(seed, combiner, dtype, weighted):
    rng = np.random.default_rng(seed)
    engine = Engine({"f": feature("f", table("t", 30, combiner=combiner), 8, 6)}, 2, 2)
    rows = [rng.integers(0, 30, rng.integers(0, 7)) for _ in range(8)]
    gains = [rng.uniform(0.1, 2, len(row)).astype(np.float32) for row in rows]
    first = None
    weights = forms_of_gains(rows, gains) if weighted else {}
    for form, ids in forms(rows, dtype).items():
        given_gains = {"f": weights[form]} if weighted else None
        result = engine.encode({"f": ids}, given_gains)
        if first is None:
            first = result
        assert_same_batches(first, result)


def forms_of_gains(rows: list[np.ndarray], gains: list[np.ndarray]) -> dict[str, Any]:
    """The gains in the forms of `forms`; padding has some that must not count."""
    lists = [row.tolist() for row in gains]
    longest = max(len(row) for row in rows)
    padded = [row + [np.nan] * (longest - len(row)) for row in lists]
    dense = np.array(padded, np.float32).reshape(len(rows), longest)
    arrow = pa.array(lists, pa.list_(pa.float32()))
    result = {
        "object array": ragged(gains, np.float32),
        "list of arrays": gains,
        "tuple of lists": tuple(lists),
        "ListArray": sliced(arrow),
        "sliced ListArray": arrow,
        "LargeListArray": arrow,
        "sliced LargeListArray": sliced(pa.array(lists, pa.large_list(pa.float32()))),
        "chunked": arrow,
        "two chunks": pa.chunked_array([arrow[:3], arrow[3:]]),
        "dense": dense,
        "dense by columns": dense.astype(np.float64),
        "every other column": np.asfortranarray(dense),
        "int16": dense,
        "dense object array": dense.astype(object),
    }
    if longest:
        fixed = pa.array(padded, pa.list_(pa.float32(), longest))
        result |= {"FixedSizeListArray": fixed, "sliced FixedSizeListArray": sliced(fixed)}
    return result


def test_arrow_memory_is_not_copied_nor_written():
    rows = [[3, 5], [], [7], [1, 1, 2]]
    array = pa.array(rows, pa.list_(pa.int64()))
    engine = Engine({"f": feature("f", table("t", 30), 4, None)}, 1)
    before = pa.total_allocated_bytes()
    engine.encode({"f": array})
    assert pa.total_allocated_bytes() == before
    assert array.to_pylist() == rows


def test_padding_is_as_if_the_id_were_not_there():
    """In every form, and whatever its gain."""
    engine = Engine({"f": feature("f", table("tags", 30, combiner="mean"), 4, 4)}, 1)
    rows = [[3, 5], [], [7], [1, 1, 2]]
    gains = [[1.0, 2.0], [], [0.5], [1.0, 1.0, 4.0]]
    holes = [[3, -1, 5], [-1, -1], [-1, 7], [1, 1, 2, -1]]
    hole_gains = [[1.0, np.nan, 2.0], [np.inf, 8.0], [-0.5, 0.5], [1.0, 1.0, 4.0, np.nan]]
    for weights, hole_weights in ((None, None), ({"f": gains}, {"f": hole_gains})):
        plain = engine.encode({"f": rows}, weights)
        assert_same_batches(plain, engine.encode({"f": holes}, hole_weights))
        arrow = pa.array(holes, pa.list_(pa.int32()))
        arrow_gains = hole_weights and {"f": pa.array(hole_gains, pa.list_(pa.float32()))}
        assert_same_batches(plain, engine.encode({"f": arrow}, arrow_gains))


def test_gains_may_be_given_for_some_features_only():
    of = table("t", 30, combiner="mean")
    specs = {"f": feature("f", of, 4, 2), "g": feature("g", of, 4, 2)}
    engine = Engine(specs, 1, 2)
    ids = {"f": np.array([[1, 2]] * 4), "g": np.array([[3, 4]] * 4)}
    gains = np.array([[1.0, 3.0]] * 4)
    some = engine.encode(ids, {"f": gains, "g": None})
    assert_same_batches(some, engine.encode(ids, {"f": gains, "g": np.ones((4, 2))}))


@given(st.sampled_from(MESHES), st.integers(0, 2**32 - 1), st.booleans(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_sparse_tensors_are_encoded_as_the_peer_does(mesh, seed, minibatched, drop):
    rng = np.random.default_rng(seed)
    devices, per_device = mesh
    samples = devices * per_device * int(rng.integers(1, 4))
    combiner = ["sum", "mean", "sqrtn"][seed % 3]
    tables = [table(name, 100, combiner=combiner) for name in ("t", "u")]
    specs = {f"f{n}": feature(f"f{n}", tables[n % 2], samples, 8) for n in range(3)}
    engine = Engine(specs, devices, per_device)
    rows = {
        name: [rng.integers(0, 100, rng.integers(0, 9)) for _ in range(samples)] for name in specs
    }
    for spec in engine.placed.values():
        spec.table_spec.stacked_table_spec = spec.table_spec.stacked_table_spec.replace(
            max_ids_per_partition=8 if drop else 256,
            max_unique_ids_per_partition=8 if drop else 256,
            suggested_coo_buffer_size_per_device=None,
        )
    parts = {name: sparse(value, 8) for name, value in rows.items()}
    trees = [{name: part[k] for name, part in parts.items()} for k in range(3)]
    options = {"enable_minibatching": minibatched, "allow_id_dropping": drop}
    theirs = peer.preprocess_sparse(engine.placed, *trees, devices, devices, per_device, **options)
    mine = kernels.preprocess_sparse_dense_matmul_input_from_sparse_tensor(
        *trees, engine.placed, devices, devices, num_sc_per_device=per_device, **options
    )
    assert_same_buffers(mine, theirs, engine, **options)
    as_rows = {name: ragged(value, int) for name, value in rows.items()}
    assert_same_batches(mine, engine.encode(as_rows, **options))


def test_sparse_tensors_may_be_lists_and_of_any_integers():
    engine = Engine({"f": feature("f", table("t", 30), 3, 2)}, 1)
    rows = [[3, 5], [], [7]]
    want = engine.encode({"f": rows})
    for kind in (list, np.int32, np.int64, np.uint8):
        indices, values, shape = sparse([np.array(row) for row in rows], 2)
        if kind is list:
            trees = [indices.tolist()], [values.tolist()], [shape.tolist()]
        else:
            trees = [indices.astype(kind)], [values.astype(kind)], [shape.astype(kind)]
        got = kernels.preprocess_sparse_dense_matmul_input_from_sparse_tensor(
            *trees, [engine.placed["f"]], 1, 1, num_sc_per_device=1
        )
        assert_same_batches(want, got)


def test_a_feature_alone_in_a_stack_made_by_hand_need_not_be_placed():
    """jax-tpu-embedding reads a missing placement so; sizes of the stack need not fit either."""
    spec = feature("f", table("t", 30), 8, 2)
    spec.table_spec.stacked_table_spec = kernels.StackedTableSpec(
        stack_name="t",
        stack_vocab_size=8,
        stack_embedding_dim=8,
        optimizer=spec.table_spec.optimizer,
        combiner="sum",
        total_sample_count=1,
        max_ids_per_partition=16,
        max_unique_ids_per_partition=16,
    )
    ids = np.arange(16).reshape(8, 2)
    engine = Engine({"f": feature("f", table("t", 30), 8, 2)}, 1, 2)
    batch, _ = kernels.preprocess_sparse_dense_matmul_input(
        {"f": ids}, None, {"f": spec}, 1, 1, num_sc_per_device=2
    )
    assert partition(batch, "t", engine, 1, 1) == [(4 + k, k, 1.0) for k in range(4)]
    other = feature("g", spec.table_spec, 8, 2)
    with pytest.raises(kernels.SpecError, match="not placed"):
        kernels.preprocess_sparse_dense_matmul_input(
            {"f": ids, "g": ids}, None, {"f": spec, "g": other}, 1, 1, num_sc_per_device=2
        )


def test_samples_may_follow_the_input_shape():
    """As in jax-tpu-embedding, where nobody reads the output shape here."""
    engine = Engine({"f": feature("f", table("t", 30), 8, 2)}, 1, 2)
    engine.placed["f"].input_shape = (16, 2)
    batch, _ = engine.encode({"f": np.zeros((16, 2), np.int32)})
    assert partition(batch, "t", engine, 1, 0) == [(0, k, 2.0) for k in range(8)]


def test_ids_may_be_a_tuple_where_the_specs_are_a_list():
    specs = [feature(name, table(name, 30), 4, 2) for name in "ab"]
    ids = tuple(np.arange(8, dtype=np.int32).reshape(4, 2) + shift for shift in (0, 9))
    leaves, (columns,) = align(specs, features=ids)
    assert leaves == specs and all(a is b for a, b in zip(columns, ids, strict=True))
    nested = {"user": specs[:1], "item": (specs[1],)}
    _, (columns, weights) = align(
        nested,
        features={"item": [ids[1]], "user": (ids[0],)},
        weights={"item": [None], "user": [1]},
    )
    assert columns[0] is ids[1] and columns[1] is ids[0] and weights == [None, 1]
    with pytest.raises(kernels.SpecError, match="structure of feature_specs"):
        align(specs, features=(ids,))


def test_odd_rows_beside_plain_ragged_ones():
    """Features whose rows are lists, or of several types, stand among such as do not."""
    rng = np.random.default_rng(7)
    specs = {name: feature(name, table(name, 40), 8, 6) for name in "abcde"}
    engine = Engine(specs, 2, 2)
    rows = {name: [rng.integers(0, 40, rng.integers(0, 7)) for _ in range(8)] for name in specs}
    plain = {name: ragged(own, np.int32) for name, own in rows.items()}
    mixed = np.empty(8, object)
    mixed[:] = [row.astype((np.int32, np.int64)[i % 2]) for i, row in enumerate(rows["b"])]
    strided = np.empty(8, object)
    strided[:] = [np.repeat(row, 2)[::2] for row in rows["d"]]
    odd = plain | {"b": mixed, "c": [row.tolist() for row in rows["c"]], "d": strided}
    gains = {name: [np.full(len(row), 0.5) for row in own] for name, own in rows.items()}
    plain_gains = {name: ragged(own, np.float32) for name, own in gains.items()}
    assert_same_batches(engine.encode(plain), engine.encode(odd))
    assert_same_batches(engine.encode(plain, plain_gains), engine.encode(odd, gains))
