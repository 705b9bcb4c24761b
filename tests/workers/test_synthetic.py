"""The synthetic click log: the same rows everywhere, and a truth that training comes close to."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import jax
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers import protocol
from workers.batches import raw_batches, slots_of
from workers.data.click_truth import best_possible, expected_auc
from workers.data.examples import Schema
from workers.data.order import PADDING_ROW
from workers.data.reader import ExampleReader
from workers.data.sources import best_of, check_dataset, has_split, open_dataset
from workers.data.synthetic import HOURS, ClickLog
from workers.data.transforms import Ids, Lists, Number
from workers.errors import DataError
from workers.host import Host
from workers.planning import check_inputs, make_plan, order_for, resolve_data
from workers.program import load_program
from workers.protocol import Assignment, Lease, RunSpec

PROGRAM = "workers.programs.clicks:program"
LOG = ClickLog(rows=1000, test_rows=300, users=70, items=30, history=5, shard_rows=128)
ADDRESS = LOG.address
GOLDEN = [
    {
        "user": 28,
        "item": 3,
        "hour": 7,
        "history": [1, 16, 1],
        "price": 0.3866770565509796,
        "age": 1.107471227645874,
        "label": 1,
    },
    {
        "user": 62,
        "item": 1,
        "hour": 7,
        "history": [1, 12],
        "price": -0.3888215124607086,
        "age": 0.6418037414550781,
        "label": 1,
    },
]
SMALL = {"rows": 60_000, "test_rows": 20_000, "users": 60, "items": 40, "shard_rows": 4096}


def run_of(tmp_path: Path, data: str, **changes: object) -> RunSpec:
    given: dict[str, object] = {
        "program": PROGRAM, "parameters": {}, "data": data, "run_folder": str(tmp_path),
        "batch_size": 32, "epochs": 1, "seed": 0, "devices_per_host": jax.device_count(),
    }  # fmt: skip
    return RunSpec(**{**given, **changes})  # pyright: ignore[reportArgumentType]


@given(st.integers(0, 2), st.integers(0, 10**6), st.integers(0, 150), st.integers(1, 100))
@settings(max_examples=40, deadline=None)
def test_a_row_depends_on_its_place_alone(split: int, shard: int, first: int, rows: int) -> None:
    name = ("train", "test", "truth")[split]
    whole, alone = LOG.table(name, shard, 250), LOG.table(name, shard, rows, first)
    assert alone.to_pylist() == whole.slice(first, rows).to_pylist()
    expected = LOG.probabilities(name, shard, 250)[first : first + rows]
    assert np.array_equal(LOG.probabilities(name, shard, rows, first), expected)


def test_splits_shards_and_seeds_differ() -> None:
    tables = [
        LOG.table("train", 0, 50), LOG.table("test", 0, 50), LOG.table("train", 1, 50),
        ClickLog(**{**vars(LOG), "seed": 1}).table("train", 0, 50),
    ]  # fmt: skip
    for index, table in enumerate(tables):
        assert not any(table.equals(other) for other in tables[index + 1 :])


def test_golden_rows() -> None:
    """Rows already trained on must stay what they were."""
    assert LOG.table("train", 2, 2).to_pylist() == GOLDEN


def test_columns_are_in_their_ranges_and_ids_are_zipf() -> None:
    log = ClickLog(users=1000, items=100, history=4, skew=1.2)
    table = log.table("train", 0, 100_000)
    user, item = table["user"].to_numpy(), table["item"].to_numpy()
    assert user.min() >= 0 and user.max() < 1000 and item.min() >= 0 and item.max() < 100
    assert set(table["hour"].to_numpy().tolist()) == set(range(HOURS))
    edges = np.arange(1, 102, dtype=float) ** (1 - 1.2)
    expected = np.diff(edges) / (edges[-1] - edges[0])
    found = np.bincount(item, minlength=100) / len(item)
    assert np.abs(found - expected).max() < 5 * np.sqrt(expected.max() / len(item))
    lengths = np.diff(table["history"].combine_chunks().offsets.to_numpy())
    assert np.abs(np.bincount(lengths) / len(item) - 1 / 5).max() < 0.01
    for name in ("price", "age"):
        values = table[name].to_numpy()
        assert abs(values.mean()) < 0.02 and abs(values.std() - 1) < 0.02


def test_labels_are_drawn_from_the_true_probabilities() -> None:
    table = LOG.table("train", 0, 200_000)
    probability, label = LOG.probabilities("train", 0, 200_000), table["label"].to_numpy()
    for low, high in pairwise(np.quantile(probability, np.linspace(0, 1, 11))):
        held = (probability >= low) & (probability < high)
        error = np.sqrt(probability[held].mean() / held.sum())
        assert abs(label[held].mean() - probability[held].mean()) < 5 * error


@given(st.lists(st.sampled_from([0.1, 0.25, 0.5, 0.7, 0.9]), min_size=2, max_size=12))
@settings(max_examples=60, deadline=None)
def test_the_expected_auc_is_that_of_its_definition(values: list[float]) -> None:
    wins = total = 0.0
    for i, one in enumerate(values):
        for j, other in enumerate(values):
            if i != j:
                weight = one * (1 - other)
                wins += weight * ((one > other) + 0.5 * (one == other))
                total += weight
    assert expected_auc(np.array(values)) == pytest.approx(wins / total, abs=1e-12)


def test_the_best_auc_lies_within_its_error_of_a_larger_sample() -> None:
    best = best_of(ADDRESS)
    assert best is not None
    larger = best_possible([LOG.probabilities("truth", k, 40_000) for k in range(100, 120)])
    assert abs(best.auc - larger.auc) <= best.auc_error + larger.auc_error
    assert 0.7 < best.auc < 0.95
    assert best.auc_error < 2e-3
    assert best_of("/data/clicks") is None


def test_no_prediction_beats_the_truth_on_labels() -> None:
    probability = LOG.probabilities("train", 5, 50_000)
    label = LOG.table("train", 5, 50_000)["label"].to_numpy().astype(bool)
    noisy = probability * np.random.default_rng(0).uniform(0.5, 1.5, len(probability))

    def auc(scores: np.ndarray) -> float:
        ranks = np.argsort(np.argsort(scores))
        clicks = label.sum()
        return (ranks[label].sum() - clicks * (clicks - 1) / 2) / (clicks * (len(label) - clicks))

    assert auc(probability) == pytest.approx(expected_auc(probability), abs=0.01)
    assert auc(noisy) < auc(probability)


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_batches_are_identical_whatever_the_number_of_hosts(tmp_path: Path, hosts: int) -> None:
    program = load_program(PROGRAM, {"users": 70, "items": 30, "history": 5})
    run = run_of(tmp_path, ADDRESS, batch_size=48, logical_shards=16)
    data = open_dataset(ADDRESS, "train")
    order = order_for(data, run)
    steps = order.steps_per_epoch + 3
    parts = []
    for rank in range(hosts):
        reader = ExampleReader(data, program.schema, cache_bytes=20_000)
        parts.append(list(raw_batches(order, reader, slots_of(order, rank, hosts), 0, steps)))
    whole = pa.concat_tables(
        [LOG.table("train", group.index, group.rows) for group in data.row_groups]
    )
    expected = program.schema.apply(whole)
    for shares in zip(*parts, strict=True):
        rows = np.concatenate([share.rows for share in shares])
        assert len(rows) == 48
        held = rows != PADDING_ROW
        assert held.sum() == shares[0].global_examples
        for name, ids in expected.ids.items():
            found = np.concatenate([share.examples.ids[name] for share in shares])
            assert np.array_equal(found[held], ids[rows[held]]), name
        labels = np.concatenate([share.examples.labels for share in shares])
        assert np.array_equal(labels[held], expected.labels[rows[held]])
        weights = np.concatenate([share.examples.weights for share in shares])
        assert np.array_equal(weights, held.astype(np.float32))


def test_addresses_say_what_differs_from_the_defaults() -> None:
    assert ClickLog().address == "synthetic"
    assert ADDRESS == "synthetic:rows=1000,test_rows=300,users=70,items=30,history=5,shard_rows=128"
    assert ClickLog.parse(ADDRESS) == LOG
    assert ClickLog.parse("synthetic:skew=1.5").skew == 1.5
    assert has_split(ADDRESS, "test")
    assert not has_split("synthetic:test_rows=0", "test")
    assert open_dataset(ADDRESS, "test").rows == 300
    assert resolve_data(load_program(PROGRAM, SMALL), None) == ClickLog(**SMALL).address


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("synthetic:user=5", r"there is no setting 'user'; there are rows, test_rows, users"),
        ("synthetic:users=many", r"users is 'many'; give a number, as in users=1000"),
        ("synthetic:users=0", r"users is 0; give a number from 1 to 2147483647"),
        ("synthetic:skew=nan", r"skew is nan; give a number from 0"),
    ],
)
def test_addresses_that_cannot_be_read_say_why(address: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        open_dataset(address, "train")


def test_a_program_that_does_not_suit_the_log_is_refused(tmp_path: Path) -> None:
    program = load_program(PROGRAM, {"users": 69, "items": 30, "history": 5})
    with pytest.raises(DataError, match="feature 'user' takes ids below 69, but column 'user' has"):
        check_inputs(program, run_of(tmp_path, ADDRESS), 1)
    short = Schema((("history", Lists(Ids("history", 30), 2)),), (Number("price"),), "label")
    data = open_dataset(ADDRESS, "train")
    check_dataset(data, short)
    with pytest.raises(DataError, match=r"split 'train', shard 1, row \d+, column 'history'"):
        ExampleReader(data, short).take(np.array([128]))


def test_training_comes_close_to_the_best_possible_auc(tmp_path: Path) -> None:
    """Within 0.02, in two passes over 60,000 rows."""
    program = load_program(PROGRAM, SMALL)
    data = resolve_data(program, None)
    run = run_of(tmp_path, data, parameters=SMALL, batch_size=256, epochs=2)
    steps = 2 * check_inputs(program, run, 1).steps_per_epoch
    run = run_of(tmp_path, data, parameters=SMALL, batch_size=256, epochs=2, total_steps=steps)
    host = Host(run, Assignment(rank=0, hosts=1, launch=0))
    try:
        host.execute(protocol.Join(host.hello().address))
        surveyed = host.execute(protocol.Survey())
        assert isinstance(surveyed, protocol.Surveyed)
        plan = make_plan(program, run, 1, surveyed.observed, None, 0)
        host.execute(protocol.Prepare(plan.to_json()))
        host.execute(protocol.Restore(None))
        host.execute(protocol.RunLease(Lease(0, plan.hash, 0, steps)))
        evaluated = host.execute(protocol.Evaluate("test"))
    finally:
        host.close()
    assert isinstance(evaluated, protocol.Evaluated)
    best = best_of(data)
    assert best is not None
    gap = best.auc - evaluated.metrics.result()["auc"]
    assert -0.01 < gap < 0.02
