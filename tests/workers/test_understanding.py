"""What columns are taken for, from schema, metadata and a sample."""

from __future__ import annotations

import warnings
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from workers.data.column_rules import hashed_rows
from workers.data.effects import LEAST
from workers.data.evidence import auc_by_groups, auc_of, count_groups
from workers.data.holdout import Holdout
from workers.data.labels import read_label
from workers.data.understanding import understand
from workers.errors import DataError
from workers.program import load_program

ROWS = 4000


def write(folder, **columns):
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), folder / "part.parquet", row_group_size=1000)
    return str(folder)


@pytest.fixture(scope="module")
def table():
    """Columns of every kind; the label depends on user, price and hour."""
    r = np.random.default_rng(0)
    rows = np.arange(ROWS)
    user = r.integers(0, 200, ROWS)
    code = r.integers(0, 300, ROWS)
    liked, taste = r.normal(0, 1.5, 200), r.normal(0, 1.5, 300)
    price = r.lognormal(1, 1.2, ROWS)
    effect = liked[user] + taste[code] - np.log(price)
    label = (r.random(ROWS) < 1 / (1 + np.exp(-effect))).astype(int)
    genres = np.array(["Drama", "Comedy", "War", "Crime"])
    return pa.table(
        {
            "user_id": user + 1,
            "code_of_shop": code * 1_000_003 + 10**9,
            "quantity": r.poisson(500, ROWS),
            "price": price,
            "rate": np.where(rows % 3 == 0, np.nan, r.normal(0, 1, ROWS)),
            "hour": rows % 24,
            "city": np.array([f"city {k}" for k in range(40)])[r.integers(0, 40, ROWS)],
            "device": np.array([f"device {k}" for k in range(1500)])[r.integers(0, 1500, ROWS)],
            "note": [f"a text of its own, {row}" for row in rows],
            "genres": ["|".join(genres[r.permutation(4)[: 1 + row % 3]]) for row in rows],
            "viewed": [list(map(int, r.integers(0, 5000, row % 70))) for row in rows],
            "vector": [[0.5, 1.5]] * ROWS,
            "timestamp": 1_600_000_000 + rows * 40_000,
            "flag": rows % 2 == 0,
            "country": ["NL"] * ROWS,
            "coupon": [None if row % 4 else f"coupon {row % 3}" for row in rows],
            "empty": pa.nulls(ROWS, pa.string()),
            "rating": 3.0 + label,
            "user_name": [f"name {one}" for one in user],
            "bought": label,
        }
    )


@pytest.fixture(scope="module")
def understood(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    pq.write_table(table, folder / "part.parquet", row_group_size=1000)
    return understand(str(folder), "bought", Holdout())


def test_columns_are_taken_for_what_they_are(understood):
    kinds = {column.name: column.taken.kind for column in understood.columns}
    assert kinds == {
        "user_id": "ids",
        "code_of_shop": "vocabulary",
        "quantity": "number",
        "price": "number",
        "rate": "number",
        "hour": "ids",
        "city": "vocabulary",
        "device": "hashed",
        "note": "left out",
        "genres": "list",
        "viewed": "list",
        "vector": "left out",
        "timestamp": "time",
        "flag": "ids",
        "country": "left out",
        "coupon": "vocabulary",
        "empty": "left out",
        "rating": "left out",
        "user_name": "left out",
        "bought": "label",
    }


def test_reasons_tell_the_evidence(understood):
    why = {column.name: column.taken.why for column in understood.columns}
    assert why["user_id"] == "the name says ids, from 1 to 200: each is its own row"
    assert "far apart: each has a row" in why["code_of_shop"]
    assert "in logarithms as it is skewed" in why["price"]
    assert "a missing one has its own" in why["rate"]
    assert "hashed into 131,072 rows, so 1% of the values share one" in why["device"]
    assert why["note"] == "nearly every row has a string of its own: a key, or free text"
    assert why["genres"].startswith("strings cut at '|': 4 values in lists")
    assert "up to 50 a row, 2" in why["viewed"] and "% of the rows lose the rest" in why["viewed"]
    assert why["vector"] == ("lists of double cannot be read: of strings or integers they can")
    assert why["timestamp"].startswith("a moment (s since 1970), over")
    assert "hour, weekday, month are ids" in why["timestamp"]
    assert why["rating"].startswith("it tells the label by itself (AUC 1.000)")
    assert why["user_name"] == "its values go one to one with those of 'user_id'"
    assert any("'rating' is left out" in line for line in understood.advice())
    assert "holdout.by=time holdout.column=timestamp" in understood.advice()[-1]


def test_figures(understood):
    columns = {column.name: column for column in understood.columns}
    assert understood.rows == understood.sample_rows == ROWS - ROWS // 10
    assert columns["rate"].nulls == pytest.approx(1 / 3, abs=0.01)
    assert columns["coupon"].nulls == 0.75
    assert columns["empty"].nulls == 1
    assert columns["hour"].counts.distinct == 24
    assert columns["country"].counts.top_share == 1
    assert columns["user_id"].alone > 0.6 > columns["city"].alone


def test_a_program_is_made_of_it(understood, table):
    parameters = understood.parameters()
    program = load_program("workers.programs.columns:program", parameters)
    program.schema.check(table.schema)
    examples = program.schema.apply(table)
    rows = {t.name: t.vocabulary_size for t in program.tables}
    for name, ids in examples.ids.items():
        assert ids.max() < rows[name]
    assert rows["user_id"] == 201 and rows["hour"] == 24
    dense = dict(zip(parameters["numbers"], examples.dense.T, strict=True))
    for name in ("price", "quantity"):
        assert abs(dense[name].mean()) < 0.1 and 0.9 < dense[name].std() < 1.1
    assert (dense["rate"][::3] == 0).all(), "a missing number is the mean"
    for part in ("hour", "weekday", "month"):
        assert parameters["features"][f"timestamp_{part}"]["unit"] == "s"


def test_the_same_data_gives_the_same(understood, table, tmp_path):
    pq.write_table(table, tmp_path / "part.parquet", row_group_size=1000)
    again = understand(str(tmp_path), "bought", Holdout())
    assert again.parameters() == understood.parameters()


def test_values_that_only_the_test_rows_have_are_no_ids(tmp_path):
    """Whole days are held out: what was learned of a day is of no use on another."""
    r = np.random.default_rng(0)
    days = np.arange(ROWS) // 20
    hot = r.normal(0, 2, 200)[days]
    label = (r.random(ROWS) < 1 / (1 + np.exp(-hot))).astype(int)
    columns = {"days": days, "word": [f"d{d}" for d in days], "x": r.normal(0, 1, ROWS)}
    table = pa.table({**columns, "label": label})
    for split, chosen in (("train", days % 5 > 0), ("test", days % 5 == 0)):
        (tmp_path / split).mkdir()
        pq.write_table(table.filter(pa.array(chosen)), tmp_path / split / "a.parquet")
    found = {c.name: c for c in understand(str(tmp_path), "label").columns}
    assert found["days"].alone > 0.7, "by its value it tells much"
    assert found["days"].taken.kind == "number"
    assert "100% of the rows to evaluate on have values never trained on" in found["days"].taken.why
    assert found["word"].taken.kind == "left out"


def test_nulls_are_expected_where_the_metadata_does_not_exclude_them(tmp_path):
    r = np.random.default_rng(0)
    values = r.integers(0, 50, 1000)
    y = r.integers(0, 2, 1000)
    full = write(tmp_path / "full", user=values, y=y)
    fields = understand(full, "y").parameters()["features"]["user"]
    assert LEAST <= fields.pop("deviation") < 0.3, "it tells nothing"
    assert fields == {"kind": "ids", "rows": 50}
    holes = write(tmp_path / "holes", user=pa.array([None, *values[1:].tolist()]), y=y)
    assert understand(holes, "y").parameters()["features"]["user"]["missing"] == "own"
    with pa.ipc.new_file(
        tmp_path / "a.arrow", (t := pa.table({"user": values, "y": y})).schema
    ) as f:
        f.write_table(t)
    fields = understand(str(tmp_path / "a.arrow"), "y").parameters()["features"]["user"]
    assert (fields["kind"], fields["missing"]) == ("vocabulary", "own")


@pytest.mark.parametrize(
    ("values", "positive", "rate"),
    [
        ([0, 1, 1, 0], None, 0.5),
        ([True, False], None, 0.5),
        ([1.0, 2, 3, 4, 5, 5, 5, 4], 4.0, 5 / 8),
        ([-1, 1, 1, 1], 1.0, 0.75),
        (["no", "yes", "no"], "yes", 1 / 3),
        (["a", "b", "b"], "a", 1 / 3),
    ],
)
def test_labels(values, positive, rate):
    label = read_label("y", pa.chunked_array([values]))
    assert (label.positive, label.rate) == (positive, pytest.approx(rate))
    assert label.labels.mean() == pytest.approx(rate)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([1, None], r"is null in 1 of 2 rows"),
        ([2, 2], "is 2 in all rows"),
        (["a", "b", "c"], "holds 3 different words"),
        ([[1], [2]], "has type list"),
        ([1.0, float("nan")], "holds NaN"),
        ([0.0, 1.0, float("inf")], "holds infinite numbers"),
    ],
)
def test_labels_that_cannot_be(values, said):
    with pytest.raises(DataError, match=said):
        read_label("y", pa.chunked_array([values]))


def test_data_that_cannot_be(tmp_path):
    data = write(tmp_path / "d", y=[0, 1] * 60, key=[f"k{n}" for n in range(120)])
    with pytest.raises(DataError, match=r"no column 'z'; it has 'y', 'key'"):
        understand(data, "z")
    with pytest.raises(DataError, match=r"no column can be .* 'y': 'key': nearly every row"):
        understand(data, "y").parameters()
    alone = write(tmp_path / "alone", y=[0, 1] * 60)
    with pytest.raises(DataError, match="the data has no other column"):
        understand(alone, "y").parameters()
    single = write(tmp_path / "single", y=[1], key=["k"])
    with pytest.raises(DataError, match="takes at least 2"):
        understand(single, "y", Holdout())
    twice = tmp_path / "twice"
    twice.mkdir()
    names = ["y", "key", "key"]
    table = pa.table([pa.array([0, 1])] * 3, names=names)
    pq.write_table(table, twice / "part.parquet")
    with pytest.raises(DataError, match=r"same name \('key' 2 times\)"):
        understand(str(twice), "y")
    with pytest.raises(DataError, match="no label was named"):
        understand(data).parameters()
    with pytest.raises(DataError, match="has its own program"):
        understand("synthetic", "label")


def test_ids_that_would_be_learnt_by_heart(tmp_path):
    r = np.random.default_rng(0)
    rows = 6000
    user, shop = r.integers(0, 3000, rows), r.integers(0, 300, rows)
    liked = r.normal(0, 3, 3000)
    data = write(
        tmp_path / "d",
        user_id=user,
        user_name=[f"u{one}" for one in user],
        shop_id=shop,
        district_code=np.where(shop < 10, 5, shop) * 1_000_003,
        y=(r.random(rows) < 0.5).astype(int),
        z=(r.random(rows) < 1 / (1 + np.exp(-liked[user]))).astype(int),
    )
    found = {c.name: c.taken for c in understand(data, "y", Holdout()).columns}
    assert "a value has 2.1 rows on average, and tells nothing" in found["user_id"].why
    assert found["user_id"].kind == found["user_name"].kind == "left out"
    assert found["district_code"].why == "its values go nearly one to one with those of 'shop_id'"
    assert found["shop_id"].features["shop_id"]["deviation"] < 0.2
    telling = {c.name: c.taken for c in understand(data, "z", Holdout()).columns}
    assert telling["user_id"].kind == "ids"
    assert telling["user_id"].features["user_id"]["deviation"] > 0.5


def test_types_that_warehouses_write(tmp_path):
    r = np.random.default_rng(0)
    labels = r.integers(0, 2, 200).tolist()
    price = [
        None if row % 9 == 0 else Decimal(int(r.integers(100, 9999))) / 100 for row in range(200)
    ]
    data = write(
        tmp_path / "d",
        **{"": [1] * 200},
        price=pa.array(price, pa.decimal128(12, 2)),
        shop_id=pa.array([Decimal(row % 7) for row in range(200)], pa.decimal128(38, 0)),
        view=pa.array([f"v{row % 3}" for row in range(200)], pa.string_view()),
        bytes=pa.array([b"a", b"\xff"] * 100),
        endless=[float("inf"), 1.0, 2.0, float("-inf")] * 50,
        y=pa.array([Decimal(one) for one in labels], pa.decimal128(1, 0)),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = understand(data, "y", Holdout())
    taken = {column.name: column.taken for column in found.columns}
    assert {name: one.kind for name, one in taken.items()} == {
        "": "left out",
        "price": "number",
        "shop_id": "left out",
        "view": "vocabulary",
        "bytes": "hashed",
        "endless": "number",
        "y": "label",
    }
    assert "convert them to int64" in taken["shop_id"].why
    assert taken["price"].numbers["price"]["most"] <= 100
    assert taken["endless"].numbers["endless"]["most"] == 2
    schema = load_program("workers.programs.columns:program", found.parameters()).schema
    examples = schema.apply(pq.read_table(data))
    assert examples.labels.tolist() == labels
    assert np.isfinite(examples.dense).all()


def test_data_of_numbers_alone_has_ids_too(tmp_path):
    r = np.random.default_rng(0)
    x = r.normal(0, 1, 500)
    data = write(tmp_path / "d", x=x, y=(x + r.normal(0, 1, 500) > 0).astype(int))
    program = load_program("workers.programs.columns:program", understand(data, "y").parameters())
    assert len(program.features) == len(program.dense) == 1


def test_estimates_and_aucs():
    r = np.random.default_rng(0)
    for true in (100, 5_000):
        sample = r.integers(0, true, 10_000)
        counts = count_groups(sample, 1_000_000)
        assert 0.8 * true < counts.estimate < 1.2 * true
    assert count_groups(np.arange(1000), 50_000).estimate == 50_000
    assert count_groups(np.full(10, -1), 10).distinct == 0
    labels = (r.random(20_000) < 0.3).astype(np.float32)
    assert abs(auc_by_groups(r.integers(0, 5_000, 20_000), labels) - 0.5) < 0.02
    assert auc_by_groups(labels.astype(int), labels) == 1
    scores = np.round(r.normal(size=300), 1)
    wins = [(a > b) + (a == b) / 2 for a in scores[:100] for b in scores[100:]]
    assert auc_of(scores, np.arange(300) < 100) == pytest.approx(np.mean(wins))


@pytest.mark.parametrize("distinct", [1, 100, 1 << 16, 10**6, 10**9])
def test_rows_for_hashing(distinct):
    rows = hashed_rows(distinct)
    assert rows & (rows - 1) == 0
    assert rows >= min(2 * distinct, 1 << 26)
    assert rows >= 64 * distinct or rows >= 1 << 20
