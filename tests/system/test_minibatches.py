"""Two hosts, of which at times only one needs minibatches, train as with larger limits."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kernels import EmbeddingPlan, Limits
from tests.runs import run_processes
from tests.system.minibatch_process import DEVICES_PER_HOST, HOSTS, LEASES
from workers.batches import encode, raw_batches, slots_of
from workers.data.reader import ExampleReader
from workers.data.sources import open_dataset
from workers.planning import make_plan, order_for, planned_specs
from workers.program import load_program
from workers.protocol import RunSpec

SECONDS = 240
STEPS = LEASES[-1][0][1]
TIGHT = {"item": Limits(8, 6, 1024), "tags": Limits(11, 8, 1024)}


def write_data(folder: Path) -> None:
    generator = np.random.default_rng(1)
    for split, rows in (("train", 300), ("test", 100)):
        item = generator.integers(0, 50, rows)
        tags = [
            [f"t{n}" for n in generator.integers(0, 99, generator.integers(0, 4))]
            for _ in range(rows)
        ]
        table = pa.table(
            {
                "item": item,
                "tags": pa.array(tags, pa.list_(pa.string())),
                "price": generator.normal(size=rows),
                "label": (item % 2 == 0).astype(np.int8),
            }
        )
        (folder / split).mkdir(parents=True)
        pq.write_table(table, folder / split / "part-0.parquet", row_group_size=32)


def cuts_of_hosts(run: RunSpec, plan: EmbeddingPlan) -> np.ndarray:
    """Whether a host needs minibatches, by step and host: ``[STEPS, HOSTS]`` bool."""
    program = load_program(run.program, run.parameters)
    specs = planned_specs(program, plan)
    dataset = open_dataset(run.data, "train", program.schema.columns)
    order = order_for(dataset, run)
    needs = np.zeros((STEPS, HOSTS), bool)
    for rank in range(HOSTS):
        reader = ExampleReader(dataset, program.schema)
        for raw in raw_batches(order, reader, slots_of(order, rank, HOSTS), 0, STEPS):
            needs[raw.step, rank] = encode(raw, specs, plan).cuts != 0
    return needs


@pytest.mark.system
def test_hosts_that_agree_on_minibatches_compute_what_larger_limits_compute(
    tmp_path: Path,
) -> None:
    write_data(tmp_path / "data")
    run = RunSpec(
        program="tests.workers.small_program:program",
        parameters={},
        data=str(tmp_path / "data"),
        run_folder=str(tmp_path / "run"),
        batch_size=64,
        epochs=3,
        seed=0,
        devices_per_host=DEVICES_PER_HOST,
        logical_shards=8,
        minibatching=True,
    )
    program = load_program(run.program, run.parameters)
    tight = make_plan(program, run, HOSTS, None, None, 0).with_limits(TIGHT)
    roomy = make_plan(program, dataclasses.replace(run, minibatching=False), HOSTS, None, None, 0)
    needs = cuts_of_hosts(run, tight)
    # All that can be: no host, one and the other alone, and both.
    assert {tuple(row) for row in needs.tolist()} == {
        *((False, False), (True, False), (False, True), (True, True))
    }
    (tmp_path / "run.json").write_text(json.dumps(dataclasses.asdict(run)))
    (tmp_path / "tight.json").write_text(tight.to_json())
    (tmp_path / "roomy.json").write_text(roomy.to_json())
    run_processes("tests.system.minibatch_process", HOSTS, tmp_path, SECONDS)

    with np.load(tmp_path / "tight.npz") as got, np.load(tmp_path / "roomy.npz") as want:
        for ((first, last), _), (steps, most) in zip(LEASES, got["minibatches"], strict=True):
            assert steps == needs[first:last].any(axis=1).sum()
            assert (most > 1) == (steps > 0)
        assert (want["minibatches"] == [0, 1]).all()
        assert set(got) == set(want)
        for name in set(want) - {"minibatches"}:
            np.testing.assert_allclose(got[name], want[name], rtol=1e-4, atol=1e-5, err_msg=name)
