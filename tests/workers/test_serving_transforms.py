"""Columns to ids without our packages: the copy in an exported folder against the transforms."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest

from kernels import AdagradOptimizerSpec, TableSpec
from kernels.specs import QuantizationConfig
from workers import (
    Buckets,
    Crossed,
    Feature,
    Hashed,
    Ids,
    Lists,
    Number,
    Separated,
    Tags,
    TimePart,
    ValueSet,
    Vocabulary,
)
from workers.data.transforms import LogShare, ValueCounts
from workers.safetensors import Stored, write_safetensors
from workers.serving.function import activation
from workers.serving.readme import readme
from workers.serving.serve import Encoder, read_arrays
from workers.serving.transforms import as_data

WORDS = [
    "",
    "a",
    "Rome",
    "exactly8",
    "nine char",
    "Zürich",
    "ein sehr langer Name, über 64 Bytes " * 3,
]
NUMBERS = [0, 1, -1, 7, 2**62, -(2**63), 2**63 - 1]
ROWS = 64


def table() -> pa.Table:
    """Every kind of column, with nulls in those whose names begin with n."""
    r = np.random.default_rng(0)

    def some(values: list[Any], nulls: bool = False) -> list[Any]:
        drawn = [values[n] for n in r.integers(0, len(values), ROWS)]
        return [None if nulls and r.random() < 0.2 else value for value in drawn]

    lists = [[1, 2, 3, 4, 5], [], [2], [5, 1, 1]]
    moments = [datetime(1969, 12, 31, 23, 30), datetime(2024, 2, 29, 5, 6, 7, 8)]
    return pa.table(
        {
            "word": some(WORDS),
            "nword": some(WORDS, nulls=True),
            "number": pa.array(some(NUMBERS), pa.int64()),
            "small": some([0, 3, 9]),
            "nsmall": pa.array(some([0, 3, 9], nulls=True), pa.int32()),
            "nprice": pa.array(some([0.0, -1.5, 2.25, 1e9, float("nan")], nulls=True)),
            "price": pa.array(some([0.5, 3, 10]), pa.float32()),
            "list": pa.array(some(lists), pa.list_(pa.int64())),
            "nlist": pa.array(some([*lists, [None, 2]], nulls=True), pa.list_(pa.int64())),
            "words": pa.array(some([["a", "Rome"], [], WORDS]), pa.list_(pa.string())),
            "joined": some(["a|Rome|b", "", "||a|", "Rome"]),
            "moment": pa.array(some(moments), pa.timestamp("us", tz="UTC")),
            "day": pa.array(some(moments), pa.date32()),
            "seconds": some([0, 951782400, -1]),
        }
    )


_VALUES = ValueSet(["Rome", "a", "Zürich"])
_NUMBERS = ValueSet([7, 2**62, 0])
TRANSFORMS = [
    Ids("small", 10),
    Ids("nsmall", 11, missing="own"),
    Hashed(("word",), 97),
    Hashed(("number",), 2**31 - 1, seed=5),
    Hashed(("nword", "small"), 50, missing="own"),
    Vocabulary("word", _VALUES, unknown=3),
    Vocabulary("nword", _VALUES, unknown="skip", missing="skip"),
    Vocabulary("number", _NUMBERS, unknown=1),
    Buckets("price", (0.5, 3.0)),
    Buckets("nprice", (0.0, 2.0), missing="own"),
    TimePart("moment", "hour"),
    TimePart("moment", "weekday"),
    TimePart("day", "month"),
    TimePart("seconds", "day"),
    Crossed((Buckets("price", (1.0,)), Hashed(("nword",), 8, missing="skip"))),
    Crossed((Ids("small", 10), Hashed(("word",), 8)), buckets=30, seed=2),
    Lists(Ids("list", 6), 3, cut="end"),
    Lists(Vocabulary("nlist", ValueSet([1, 2]), missing="own"), 2, cut="start", missing="skip"),
    Tags("words", 40, valency=7, seed=3),
    Tags("nlist", 40, valency=5, missing="skip"),
    Separated("|", Tags("joined", 40, valency=2, cut="end")),
    Separated("|", Lists(Vocabulary("joined", _VALUES, unknown="skip"), 3)),
    Number("price", mean=2.0, scale=0.3, log=True),
    Number("nprice", least=-0.5, most=100.0, log=True, missing=1.0),
    LogShare("word", ValueCounts(_VALUES, np.array([3.0, 5.0, 1.0]))),
]


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda one: f"{type(one).__name__}")
def test_the_copy_makes_the_same(transform: Any) -> None:
    data = table()
    arrays: dict[str, np.ndarray] = {}
    told = json.loads(json.dumps(as_data(transform, "it", arrays)))
    columns = {name: data.column(name).to_pylist() for name in transform.columns}
    made = Encoder({}, arrays).made(told, columns)
    expected = transform.apply(data)
    np.testing.assert_array_equal(made.reshape(expected.shape), expected)
    assert len(np.unique(expected)) > 1


@pytest.mark.parametrize(
    ("transform", "columns", "said"),
    [
        (Ids("small", 3), {"small": [1, 3]}, "column 'small', row 1: 3 is outside"),
        (Ids("small", 3), {"small": [None]}, "row 0: None is null"),
        (Ids("small", 3), {"other": [1]}, "column 'small' is missing; there are other"),
        (Vocabulary("word", _VALUES, unknown="refuse"), {"word": ["x"]}, "'x' is not in the"),
        (Hashed(("word",), 5), {"word": ["x", 3]}, "strings beside numbers"),
        (Lists(Ids("list", 9), 2), {"list": [[1], [1, 2, 3]]}, "row 1: .* is longer than 2"),
        (Number("price"), {"price": [1.0, float("inf")]}, "row 1: inf is not a finite number"),
        (Number("price", log=True), {"price": [-2.0]}, "too small for a logarithm"),
    ],
)
def test_what_training_refuses_is_refused(transform: Any, columns: Any, said: str) -> None:
    arrays: dict[str, np.ndarray] = {}
    told = as_data(transform, "it", arrays)
    assert told is not None
    with pytest.raises(ValueError, match=said):
        Encoder({}, arrays).made(told, columns)


def test_moments_with_another_zone_are_taken_in_utc() -> None:
    told = as_data(TimePart("moment", "hour"), "it", {})
    assert told is not None
    moment = datetime.fromisoformat("2024-05-01T23:30:00+02:00")
    assert Encoder({}, {}).made(told, {"moment": [moment, moment.astimezone(UTC)]}).tolist() == [
        21,
        21,
    ]


@dataclass(frozen=True)
class Doubled(Ids):
    """Somebody's own transform."""

    def apply(self, table: pa.Table) -> np.ndarray:
        return 2 * super().apply(table)


def test_other_peoples_transforms_are_left_to_the_caller() -> None:
    assert as_data(Doubled("small", 10), "it", {}) is None
    assert as_data(Lists(Doubled("list", 10), 3), "it", {}) is None
    about = {
        "program": "p",
        "step": 1,
        "jax": "0",
        "platforms": ["cpu"],
        "batch": 8,
        "tables": {},
        "functions": {"model": {"file": "model.jax_export", "columns": ["logit"]}},
        "columns": {"small": None},
        "features": [
            {
                "name": "twice",
                "table": "t",
                "valency": 1,
                "combiner": "sum",
                "columns": ["small"],
                "transform": {"kind": "given", "column": "twice"},
            }
        ],
        "dense": [],
    }
    text = readme(about)
    assert "`twice`: made by code that is not in this folder" in text and '"twice": [...],' in text
    ids, _ = Encoder(about, {}).encode({"twice": [4, 8]})
    assert ids["twice"].tolist() == [[4], [8]]


@pytest.mark.parametrize("combiner", ["sum", "mean", "sqrtn", "sequence"])
@pytest.mark.parametrize("quantized", [False, True])
def test_rows_are_combined(combiner: str, quantized: bool) -> None:
    sequence = combiner == "sequence"
    spec = TableSpec(
        name="t",
        vocabulary_size=6,
        embedding_dim=2,
        initializer=jax.nn.initializers.zeros,
        optimizer=AdagradOptimizerSpec(learning_rate=0.1),
        combiner="mean" if sequence else combiner,
        quantization_config=QuantizationConfig(min_value=-4.0, max_value=4.0, num_buckets=9)
        if quantized
        else None,
    )
    feature = Feature("f", "t", Tags("x", 6, valency=3), sequence=sequence)
    rows = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    ids = np.array([[5, -1, -1], [0, 0, 2], [-1, -1, -1], [1, 6, 2]], np.int32)
    made = np.asarray(activation(feature, spec, jnp.asarray(rows, jnp.bfloat16), jnp.asarray(ids)))
    rows = np.asarray(jnp.asarray(rows, jnp.bfloat16).astype(jnp.float32))
    if quantized:
        rows = np.floor(np.clip(rows, -4, 4) + 0.5).astype(np.float32)
    if sequence:
        expected = [rows[i] if 0 <= i < 6 else 0 * rows[0] for i in ids.ravel()]
    else:
        power = {"sum": 0.0, "mean": 1.0, "sqrtn": 0.5}[combiner]
        held = [[i for i in one if 0 <= i < 6] for one in ids]
        expected = [rows[one].sum(axis=0) / max(1, len(one)) ** power for one in held]
    np.testing.assert_allclose(made, expected, rtol=1e-6)


def test_arrays_are_read_as_they_were_written(tmp_path: Any) -> None:
    kinds = (np.float32, np.float64, np.int64, np.uint64, np.bool_, jnp.bfloat16)
    arrays = {str(np.dtype(kind)): np.arange(6).reshape(2, 3).astype(kind) for kind in kinds}
    arrays["nothing"] = np.zeros((0, 4), np.float32)
    write_safetensors(tmp_path / "a", {name: Stored.of(array) for name, array in arrays.items()})
    found = read_arrays(tmp_path / "a")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
