"""A program's ranking: from the model's method to figures, on any mesh."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jax.sharding import PartitionSpec

from kernels import unstack_tables
from tests.workers.ranking_program import program
from tests.workers.test_ranking_metrics import reference
from workers import Ranking, protocol
from workers.data.reader import ExampleReader
from workers.data.sources import open_dataset
from workers.errors import ProgramError
from workers.host import Host
from workers.mesh import AXIS, make_mesh
from workers.planning import make_plan, order_for
from workers.protocol import Assignment, RunSpec
from workers.ranking import in_batch, ranks_of

BATCH = 64
ROWS = 90
"""Of the test split: the second of its batches is filled up."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranking")
    generator = np.random.default_rng(1)
    for split, rows in (("train", BATCH), ("test", ROWS)):
        tags = [[f"t{n}" for n in generator.integers(0, 9, 2)] for _ in range(rows)]
        columns = {
            "item": generator.integers(0, 20, rows),
            "tags": pa.array(tags, pa.list_(pa.string())),
            "label": generator.integers(0, 2, rows),
        }
        (folder / split).mkdir()
        pq.write_table(pa.table(columns), folder / split / "part-0.parquet")
    return folder


def run_on(data: Path, devices: int, **parameters: object) -> RunSpec:
    return RunSpec(
        program="tests.workers.ranking_program:program",
        parameters=parameters,
        data=str(data),
        run_folder=str(data / "run"),
        batch_size=BATCH,
        epochs=1,
        seed=3,
        devices_per_host=devices,
        logical_shards=8,
    )


def evaluated(host: Host, run: RunSpec) -> protocol.Evaluated:
    plan = make_plan(program(), run, 1, None, None, 0)
    host.execute(protocol.Join(host.hello().address))
    host.execute(protocol.Prepare(plan.to_json()))
    host.execute(protocol.Restore(None))
    answer = host.execute(protocol.Evaluate("test"))
    assert isinstance(answer, protocol.Evaluated)
    return answer


def expected(host: Host, run: RunSpec) -> dict[str, float]:
    """The figures from the tables, batch by batch, in plain numpy."""
    tables = unstack_tables(host.plan, host.state.tables)
    dataset = open_dataset(run.data, "test", program().schema.columns)
    reader = ExampleReader(dataset, program().schema)
    order = order_for(dataset, run)
    totals: dict[str, float] = {}
    for rows in order.batches(0, 0, order.steps_per_epoch):
        examples = reader.take(np.asarray(rows).ravel())
        real = np.flatnonzero(examples.weights > 0)
        items = examples.ids["item"][real, 0]
        listed = list(dict.fromkeys(items.tolist()))
        tags = [
            tables["tags"][[one for one in row if one >= 0]].mean(axis=0)
            for row in examples.ids["tags"][real]
        ]
        scores = np.array(tags) @ tables["item"][listed].T
        wanted = [
            {listed.index(item)} if label else set()
            for item, label in zip(items.tolist(), examples.labels[real], strict=True)
        ]
        figures = reference(scores, wanted, np.ones(len(real)))
        weight = figures["ranked_examples"]
        for name, figure in figures.items():
            share = figure if name == "ranked_examples" else figure * weight
            totals[name] = totals.get(name, 0.0) + share
    weight = totals.pop("ranked_examples")
    means = {name: total / weight for name, total in totals.items()}
    return means | {"ranked_examples": weight}


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_figures_of_an_evaluation(
    data: Path, devices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = make_mesh(jax.devices()[:devices])
    monkeypatch.setattr("workers.mesh.make_mesh", lambda: chosen)
    run = run_on(data, devices, cutoffs=(1, 3, 10))
    host = Host(run, Assignment(0, 1, 0))
    try:
        answer = evaluated(host, run)
        assert answer.ranking is not None
        assert answer.metrics.result()["examples"] == ROWS
        result = answer.ranking.result()
        assert result == pytest.approx(expected(host, run), rel=1e-9)
        assert 0 < result["recall@1"] < result["recall@10"] < 1
    finally:
        host.close()


def test_candidates_of_a_batch_are_the_same_on_any_mesh() -> None:
    generator = np.random.default_rng(0)
    # Whole numbers, so that products are exact whatever their order.
    queries, items = generator.integers(-3, 4, (2, 16, 4)).astype(np.float32)
    keys = np.array([0, 3, 1, 3, 2, 9, 0, 1, 4, 4, 4, 5, 6, 7, 8, 3], np.float32)
    items = items[keys.astype(int)]
    alone, relevant = in_batch(jnp.asarray(queries), jnp.asarray(items), jnp.asarray(keys))
    listed = np.isfinite(np.asarray(alone[0]))
    assert sorted(keys[listed].tolist()) == list(range(1, 10))
    assert np.asarray(alone)[:, listed].tolist() == (queries @ items[listed].T).tolist()
    for index, key in enumerate(keys):
        first = int(relevant[index, 0])
        assert first == (-1 if key == 0 else keys.tolist().index(key))
    for devices in (2, 8):
        mesh = make_mesh(jax.devices()[:devices])
        cut = PartitionSpec(AXIS)
        mapped = jax.shard_map(in_batch, mesh=mesh, in_specs=(cut, cut, cut), out_specs=cut)
        spread_scores, spread_relevant = jax.jit(mapped)(queries, items, keys)
        assert np.asarray(spread_scores).tolist() == np.asarray(alone).tolist()
        assert spread_relevant.tolist() == relevant.tolist()


def test_without_keys_every_sample_is_a_candidate() -> None:
    scores, relevant = in_batch(jnp.eye(3), jnp.eye(3))
    assert scores.tolist() == np.eye(3).tolist()
    assert relevant.tolist() == [[0], [1], [2]]


def test_what_cannot_be_ranked_is_refused() -> None:
    for cutoffs in ((), (0, 1), (5, 5)):
        with pytest.raises(ProgramError, match="different positive numbers"):
            Ranking(cutoffs)
    with pytest.raises(ProgramError, match="most_relevant is 0"):
        Ranking((1,), most_relevant=0)
    with pytest.raises(ProgramError, match="its model has no method 'order'"):
        program(method="order")
    with pytest.raises(ProgramError, match=r"\[n, candidates\] and \[n, 1\]"):
        ranks_of(Ranking(), jnp.zeros((4, 9)), jnp.zeros((4, 2), jnp.int32))
