"""Vocabularies, boundaries and moments from data, and nulls that the metadata tells of."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.data.dataset import Dataset, check_dataset, open_dataset, read_row_group
from workers.data.examples import Schema
from workers.data.fitting import (
    count_values,
    fit_buckets,
    fit_numbers,
    fit_vocabulary,
    read_numbers,
    write_numbers,
)
from workers.data.transforms import (
    Hashed,
    Ids,
    Lists,
    Moments,
    Number,
    ValueCounter,
    ValueSet,
    Vocabulary,
)
from workers.errors import DataError, ProgramError


def save(folder: Path, columns: dict[str, Any], group: int = 3) -> Dataset:
    table = pa.table(columns)
    half = table.num_rows // 2
    pq.write_table(table.slice(0, half), folder / "a.parquet", row_group_size=group)
    pq.write_table(table.slice(half), folder / "b.parquet", row_group_size=group)
    return open_dataset(folder, "train")


CHUNKS = st.lists(st.lists(st.one_of(st.none(), st.sampled_from("abcdefgh")), max_size=20))


@given(CHUNKS, st.integers(1, 10))
def test_counts_are_exact_or_within_the_error(
    chunks: list[list[str | None]], capacity: int
) -> None:
    counter, true = ValueCounter(capacity), Counter()
    for chunk in chunks:
        counter.add(pa.array(chunk, pa.string()))
        true.update(chunk)
    nulls = true.pop(None, 0)
    assert (counter.nulls, counter.total) == (nulls, true.total())
    if not true:
        return
    counted = {row["value"]: row["count"] for row in counter.counts().to_pylist()}
    assert len(counted) <= capacity
    assert counter.error <= counter.total / (capacity + 1)
    for value, count in true.items():
        assert count - counter.error <= counted.get(value, 0) <= count
    if len(true) <= capacity:
        assert counter.error == 0
        assert list(counted.items()) == sorted(true.items(), key=lambda item: (-item[1], item[0]))


def test_counts_of_every_arrow_form_are_the_same() -> None:
    values = pa.array(["b", "a", "b", None])
    forms = (
        values,
        values.dictionary_encode(),
        pa.chunked_array([values[:2], values[2:]]),
        pa.array([["b"], ["a", "b"], None, [None]])[:2],
        pa.array([[["b", "a"], ["b"]]], pa.list_(pa.large_list(pa.large_string()))),
    )
    for form in forms:
        counter = ValueCounter()
        counter.add(form)
        assert counter.counts().to_pydict() == {"value": ["b", "a"], "count": [2, 1]}
    with pytest.raises(DataError, match="'v' has values of type double"):
        ValueCounter(name="v").add(pa.array([1.0]))
    counter = ValueCounter(name="v")
    counter.add(pa.array([1]))
    with pytest.raises(DataError, match="'v' holds large_string after int64"):
        counter.add(pa.array(["a"]))
    with pytest.raises(DataError, match="'v': no value has been counted"):
        ValueCounter(name="v").counts()
    with pytest.raises(ProgramError, match="capacity is 0"):
        ValueCounter(0)


def test_vocabularies_are_cut_by_frequency(tmp_path: Path) -> None:
    data = save(tmp_path, {"s": list("abcabcabb?"), "l": [[1, 2]] * 5 + [[2]] * 4 + [None]})
    assert fit_vocabulary(data, "s") == ValueSet(["b", "a", "c", "?"])
    assert fit_vocabulary(data, "s", least_count=3) == ValueSet(["b", "a"])
    assert fit_vocabulary(data, "s", most=1) == ValueSet(["b"])
    assert fit_vocabulary(data, "l") == ValueSet([2, 1])
    assert count_values(data, "l").nulls == 1
    with pytest.raises(DataError, match="no value was counted 9 times"):
        fit_vocabulary(data, "s", least_count=9)
    with pytest.raises(DataError, match="has no column 'z'; it has 's', 'l'"):
        fit_vocabulary(data, "z")
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"a\.parquet.* row group 0"):
        fit_vocabulary(data, "s")


@given(st.lists(st.lists(st.floats(-1e6, 1e6), max_size=10), max_size=5))
def test_moments_merge(chunks: list[list[float]]) -> None:
    shifted = [np.array(chunk) + 1e9 for chunk in chunks]
    merged = sum((Moments.of(chunk) for chunk in shifted), Moments())
    everything = np.concatenate([np.zeros(0), *shifted])
    assert merged.count == everything.size
    if everything.size:
        assert merged.mean == pytest.approx(everything.mean(), rel=1e-12)
        assert merged.deviation == pytest.approx(everything.std(), rel=1e-6, abs=1e-3)


def test_numbers_are_fitted_as_they_are_used(tmp_path: Path) -> None:
    values = [1.0, 5.0, None, -3.0, 2.0, 9.0, 0.0]
    data = save(tmp_path, {"a": values, "same": [7] * 7})
    wanted = (
        Number("a", log=True, least=0.0, missing=1.0),
        Number("same"),
    )
    fitted = fit_numbers(data, wanted)
    out = np.concatenate(
        [fitted[0].apply(pq.read_table(group.file).slice(0)) for group in data.row_groups[::2]]
    )
    logs = np.log1p([1.0, 5.0, 1.0, 0.0, 2.0, 9.0, 0.0])
    assert fitted[0].mean == pytest.approx(logs.mean())
    assert fitted[0].scale == pytest.approx(logs.std())
    assert np.isfinite(out).all()
    assert (fitted[1].mean, fitted[1].scale) == (7.0, 1.0)
    write_numbers(tmp_path / "numbers.json", fitted)
    assert read_numbers(tmp_path / "numbers.json") == fitted
    with pytest.raises(DataError, match=r"a\.parquet', row group 0, row 2, column 'a': null"):
        fit_numbers(data, [Number("a")])
    with pytest.raises(DataError, match="is missing"):
        read_numbers(tmp_path / "none.json")
    for text in ("{", '[{"columns": 1}]', "[3]"):
        (tmp_path / "numbers.json").write_text(text)
        with pytest.raises(DataError, match="cannot be read"):
            read_numbers(tmp_path / "numbers.json")


def test_buckets_hold_about_as_many_rows_each(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.exponential(size=20_000)
    data = save(tmp_path, {"a": values}, 5000)
    assert np.allclose(fit_buckets(data, "a", 4), np.quantile(values, [0.25, 0.5, 0.75]))
    sampled = fit_buckets(data, "a", 4, sample=4000)
    assert sampled == fit_buckets(data, "a", 4, sample=4000)
    counts = np.histogram(values, [-np.inf, *sampled, np.inf])[0] / 20_000
    assert np.abs(counts - 0.25).max() < 0.05
    data = save(tmp_path, {"a": [1.0, None, float("nan"), 1.0, 2.0, 1.0]})
    assert fit_buckets(data, "a", 4) == (1.0, 1.25)
    data = save(tmp_path, {"a": pa.array([None, None], pa.float64())})
    with pytest.raises(DataError, match="no number to take buckets from"):
        fit_buckets(data, "a", 4)


def test_the_metadata_is_checked_for_nulls_only_where_they_are_refused(tmp_path: Path) -> None:
    data = save(tmp_path, {"s": ["a", None], "n": [None, 1.0], "y": [0, 1]})
    lenient = Schema((("s", Hashed(("s",), 5, missing="own")),), (Number("n", missing=0.0),), "y")
    check_dataset(data, lenient)
    assert read_row_group(data.row_groups[1], lenient).ids["s"].tolist() == [[5]]
    twice = Schema((*lenient.features, ("t", Vocabulary("s", ValueSet(["a"])))), (), "y")
    with pytest.raises(DataError, match=r"b\.parquet', row group 0, column 's': 1 null"):
        check_dataset(data, twice)
    label = Schema((), (Number("n", missing=0.0),), "n")
    with pytest.raises(DataError, match="column 'n': 1 null"):
        check_dataset(data, label)


def test_bad_values_name_file_row_group_row_and_column(tmp_path: Path) -> None:
    data = save(tmp_path, {"l": [[1], [2], [3], [4, 99]], "y": [0, 1, 0, 1]}, 2)
    schema = Schema((("l", Lists(Ids("l", 9), 2)),), (), "y")
    message = r"b\.parquet', row group 0, row 1, column 'l': inside the list: id 99 is outside"
    with pytest.raises(DataError, match=message):
        read_row_group(data.row_groups[1], schema)
