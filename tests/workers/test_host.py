"""A host driven in this process by the commands a driver would send."""

from __future__ import annotations

import errno
import json
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kernels import EmbeddingPlan, LimitsExceeded, unstack_tables
from workers import protocol
from workers.checkpoint import committed_steps
from workers.errors import CheckpointError, NonFiniteLoss, PlanMismatch, StorageFull
from workers.host import Host
from workers.mesh import make_mesh
from workers.planning import check_inputs, make_plan, planned_specs
from workers.program import load_program
from workers.protocol import Assignment, Lease, Observed, RunSpec
from workers.training import abstract_state

PROGRAM = "tests.workers.small_program:program"
BATCH = 64
ROWS = 300
STEPS = -(-ROWS // BATCH)
EPOCHS = 6


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    for split, rows in (("train", ROWS), ("test", 70)):
        item = generator.integers(0, 50, rows)
        tags = [[f"t{n}" for n in range(generator.integers(0, 4))] for _ in range(rows)]
        table = pa.table(
            {
                "item": item,
                "tags": pa.array(tags, pa.list_(pa.string())),
                "price": generator.normal(size=rows),
                "label": (item % 2 == 0).astype(np.int8),
            }
        )
        (folder / split).mkdir()
        pq.write_table(table, folder / split / "part-0.parquet", row_group_size=32)
    return folder


@pytest.fixture
def run(data: Path, tmp_path: Path) -> RunSpec:
    return RunSpec(
        program=PROGRAM,
        parameters={},
        data=str(data),
        run_folder=str(tmp_path),
        batch_size=BATCH,
        epochs=EPOCHS,
        seed=0,
        devices_per_host=jax.device_count(),
        logical_shards=8,
        record_rows=True,
    )


@pytest.fixture
def hosts() -> Iterator[list[Host]]:
    """Hosts to be closed at the end."""
    made: list[Host] = []
    yield made
    for host in made:
        host.close()


def plan_for(run: RunSpec, observed: dict[str, Observed] | None = None) -> EmbeddingPlan:
    program = load_program(run.program, run.parameters)
    return make_plan(program, run, 1, observed, None, 0)


def started(run: RunSpec, hosts: list[Host], restore: int | None = None) -> Host:
    host = Host(run, Assignment(rank=0, hosts=1, launch=0))
    hosts.append(host)
    host.execute(protocol.Join(host.hello().address))
    plan = plan_for(run)
    prepared = host.execute(protocol.Prepare(plan.to_json()))
    assert isinstance(prepared, protocol.Prepared)
    assert prepared.plan_hash == plan.hash
    program = load_program(run.program, run.parameters)
    assert prepared.data == check_inputs(program, run, 1).fingerprint
    assert host.execute(protocol.Restore(restore)) == protocol.Restored(0, restore or 0)
    return host


def train(host: Host, first: int, last: int, *, save: bool = False) -> protocol.LeaseDone:
    lease = Lease(first, host.plan.hash, first, last, save)
    done = host.execute(protocol.RunLease(lease))
    assert isinstance(done, protocol.LeaseDone)
    return done


def tables(host: Host) -> dict[str, np.ndarray]:
    return unstack_tables(host.plan, host.state.tables)


def test_a_whole_run(run: RunSpec, hosts: list[Host]) -> None:
    host = started(run, hosts)
    assert host.pulse().phase == "idle"
    done = train(host, 0, EPOCHS * STEPS, save=True)
    assert len(done.losses) == EPOCHS * STEPS
    assert done.examples == EPOCHS * ROWS
    assert done.metrics.result()["examples"] == EPOCHS * ROWS
    assert np.mean(done.losses[STEPS:]) < np.mean(done.losses[:STEPS])
    assert {"compiling", "training", "waiting_for_data", "saving"} <= set(done.seconds)
    assert set(done.stages) == {"read", "transform", "pick", "encode", "put"}
    evaluated = host.execute(protocol.Evaluate("test"))
    assert isinstance(evaluated, protocol.Evaluated)
    result = evaluated.metrics.result()
    assert result["examples"] == 70
    assert result["auc"] > 0.9
    assert evaluated.row_norms == {}
    evaluated = host.execute(protocol.Evaluate("test", row_norms=True))
    assert isinstance(evaluated, protocol.Evaluated)
    for name, table in tables(host).items():
        norms = np.linalg.norm(table, axis=1)
        found = evaluated.row_norms[name]
        assert (found.rows, found.finite) == (len(table), len(table))
        assert (found.least, found.most) == pytest.approx((norms.min(), norms.max()), rel=1e-6)
        assert found.total == pytest.approx(norms.sum(), rel=1e-5)
    finished = host.execute(protocol.Finish())
    assert finished == protocol.Finished(0, (EPOCHS * STEPS,))
    recorded = (Path(run.run_folder) / "rows" / "host-0.jsonl").read_text().splitlines()
    lines = [json.loads(line) for line in recorded]
    assert [line["step"] for line in lines] == list(range(EPOCHS * STEPS))
    for epoch in range(EPOCHS):
        seen = [row for line in lines[epoch * STEPS : (epoch + 1) * STEPS] for row in line["rows"]]
        assert sorted(row for row in seen if row >= 0) == list(range(ROWS))


def test_survey_sees_rows_steps_and_limits(run: RunSpec, hosts: list[Host]) -> None:
    host = Host(run, Assignment(rank=0, hosts=1, launch=0))
    hosts.append(host)
    host.execute(protocol.Join(host.hello().address))
    surveyed = host.execute(protocol.Survey())
    assert isinstance(surveyed, protocol.Surveyed)
    assert (surveyed.rows, surveyed.steps_per_epoch) == (ROWS, STEPS)
    plan = plan_for(run, dict(surveyed.observed))
    host.execute(protocol.Prepare(plan.to_json()))
    host.execute(protocol.Restore(None))
    assert len(train(host, 0, STEPS).losses) == STEPS


def test_restored_runs_end_bit_identical(run: RunSpec, hosts: list[Host]) -> None:
    host = started(run, hosts)
    train(host, 0, 3, save=True)
    rest = train(host, 3, 2 * STEPS)
    expected = tables(host)
    host.execute(protocol.Finish())
    assert committed_steps(Path(run.run_folder) / "checkpoints") == (3,)
    again = started(run, hosts, restore=3)
    assert train(again, 3, 2 * STEPS).losses == rest.losses
    for name, table in tables(again).items():
        assert np.array_equal(expected[name], table), name
    parameters = zip(
        jax.tree.leaves(host.state.parameters),
        jax.tree.leaves(again.state.parameters),
        strict=True,
    )
    assert all(np.array_equal(one, other) for one, other in parameters)


def test_the_abstract_state_is_that_of_the_real_one(run: RunSpec, hosts: list[Host]) -> None:
    host = started(run, hosts)
    program = load_program(run.program, run.parameters)
    specs = planned_specs(program, host.plan)
    abstract = abstract_state(program, host.plan, specs, make_mesh())
    assert jax.tree.structure(abstract) == jax.tree.structure(host.state)
    for told, real in zip(jax.tree.leaves(abstract), jax.tree.leaves(host.state), strict=True):
        assert (told.shape, told.dtype) == (real.shape, real.dtype)
        assert told.sharding.is_equivalent_to(real.sharding, real.ndim)


def test_a_plan_is_rebuilt_to_its_hash_and_another_programs_is_refused(
    run: RunSpec, hosts: list[Host]
) -> None:
    host = Host(run, Assignment(rank=0, hosts=1, launch=0))
    hosts.append(host)
    host.execute(protocol.Join(host.hello().address))
    surveyed = host.execute(protocol.Survey())
    assert isinstance(surveyed, protocol.Surveyed)
    plan = plan_for(run, dict(surveyed.observed))
    prepared = host.execute(protocol.Prepare(plan.to_json()))
    assert isinstance(prepared, protocol.Prepared)
    assert prepared.plan_hash == plan.hash
    other = plan_for(replace(run, parameters={"learning_rate": 0.1}))
    with pytest.raises(PlanMismatch, match=r"host 0 runs another program .*table 'item' has optim"):
        host.execute(protocol.Prepare(other.to_json()))


def test_leases_may_be_cut_anywhere(run: RunSpec, hosts: list[Host]) -> None:
    whole = train(started(run, hosts), 0, STEPS + 2).losses
    host = started(run, hosts)
    cut = train(host, 0, 1).losses + train(host, 1, 1).losses + train(host, 1, STEPS + 2).losses
    assert cut == whole


def test_a_lease_for_another_plan_or_step_is_refused(run: RunSpec, hosts: list[Host]) -> None:
    host = started(run, hosts)
    with pytest.raises(PlanMismatch, match="lease 7 begins at step 3, but 0 steps are done"):
        host.execute(protocol.RunLease(Lease(7, host.plan.hash, 3, 4)))
    with pytest.raises(PlanMismatch, match="is for plan"):
        host.execute(protocol.RunLease(Lease(7, "another", 0, 1)))
    assert train(host, 0, 1).last == 1


def test_an_evaluation_is_left_where_it_is_told_to_end(run: RunSpec, hosts: list[Host]) -> None:
    host = started(run, hosts)
    assert host.hold(9) == 0
    host.release(9, 1)  # of two steps
    left = host.execute(protocol.Evaluate("test", 9))
    assert isinstance(left, protocol.Evaluated)
    assert not left.complete
    assert left.metrics.weight == 0
    whole = host.execute(protocol.Evaluate("test", 10))
    assert isinstance(whole, protocol.Evaluated)
    assert whole.complete
    assert whole.metrics.weight == 70


def test_a_batch_beyond_the_limits_is_refused_before_the_step(
    run: RunSpec, hosts: list[Host]
) -> None:
    host = started(run, hosts)
    tight = {stack: Observed(1, 1, 8) for stack in host.plan.limits}
    plan = plan_for(run, tight)
    host.execute(protocol.Prepare(plan.to_json()))
    host.execute(protocol.Restore(None))
    before = tables(host)
    with pytest.raises(LimitsExceeded) as caught:
        train(host, 0, STEPS)
    assert caught.value.observed > caught.value.allowed
    for name, table in tables(host).items():
        assert np.array_equal(before[name], table)


def test_a_damaged_checkpoint_is_an_error_that_names_it(run: RunSpec, hosts: list[Host]) -> None:
    host = started(run, hosts)
    train(host, 0, 2, save=True)
    host.execute(protocol.Finish())
    folder = Path(run.run_folder) / "checkpoints" / "2"
    for file in (folder / "dense").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"checkpoint 2 in .* (cannot be read|has 0 bytes)"):
        started(run, hosts, restore=2)


def test_a_save_without_room_is_told_as_such_also_by_the_next_plan(
    run: RunSpec, hosts: list[Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("workers.checkpoint.seal", no_room)
    host = started(run, hosts)
    train(host, 0, 1, save=True)
    with pytest.raises(StorageFull, match="no room for a checkpoint"):
        host.execute(protocol.Prepare(host.plan.to_json()))


def test_inputs_are_checked_without_a_host(run: RunSpec) -> None:
    program = load_program(run.program, run.parameters)
    summary = check_inputs(program, run, 1)
    assert (summary.rows, summary.test_rows, summary.steps_per_epoch) == (ROWS, 70, STEPS)


def not_a_number_at(data: Path, folder: Path, row: int) -> Path:
    """The data with the label-independent number of one training row infinite."""
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
        table = pq.read_table(data / split / "part-0.parquet")
        if split == "train":
            price = table["price"].to_numpy().copy()
            price[row] = np.float32(3e38)
            index = table.column_names.index("price")
            table = table.set_column(index, "price", pa.array(price))
        pq.write_table(table, folder / split / "part-0.parquet", row_group_size=32)
    return folder


def step_of_row(run: RunSpec, row: int) -> int:
    lines = (Path(run.run_folder) / "rows" / "host-0.jsonl").read_text().splitlines()
    return next(at["step"] for at in map(json.loads, lines) if row in at["rows"])


def test_what_is_not_finite_is_named_skipped_or_passed_over(
    run: RunSpec, data: Path, hosts: list[Host], tmp_path: Path
) -> None:
    train(started(run, hosts), 0, STEPS)
    bad = step_of_row(run, 7)
    wrong = replace(run, data=str(not_a_number_at(data, tmp_path / "wrong", 7)))

    host = started(wrong, hosts)
    with pytest.raises(NonFiniteLoss, match=f"step {bad}: .*table 'item'.*failures.nan") as raised:
        train(host, 0, STEPS)
    assert raised.value.step == bad
    again = pickle.loads(pickle.dumps(raised.value))
    assert (str(again), again.step) == (str(raised.value), bad)

    skips = started(replace(wrong, non_finite="skip"), hosts)
    done = train(skips, 0, STEPS)
    assert [skipped.step for skipped in done.skipped] == [bad]
    assert "not finite" in done.skipped[0].reason

    passes = started(replace(wrong, non_finite="rollback"), hosts)
    lease = Lease(0, passes.plan.hash, 0, STEPS, skip=(bad,))
    passed = passes.execute(protocol.RunLease(lease))
    assert isinstance(passed, protocol.LeaseDone)
    assert np.isnan(passed.losses[bad])
    assert [loss for at, loss in enumerate(passed.losses) if at != bad] == [
        loss for at, loss in enumerate(done.losses) if at != bad
    ]
    for name, table in tables(skips).items():
        assert np.array_equal(table, tables(passes)[name])
    assert int(skips.state.step) == int(passes.state.step) == STEPS


def test_a_lease_that_is_held_ends_where_the_driver_says(run: RunSpec, hosts: list[Host]) -> None:
    host = started(run, hosts)
    assert host.hold(3) == 0
    lease = Lease(3, host.plan.hash, 0, STEPS, save=True)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(host.execute, protocol.RunLease(lease))
        with pytest.raises(TimeoutError):
            running.result(timeout=1.0)
        host.release(3, 2)
        done = running.result(timeout=120)
    assert isinstance(done, protocol.LeaseDone)
    assert (done.first, done.last, len(done.losses)) == (0, 2, 2)
    host.execute(protocol.Finish())
    assert committed_steps(Path(run.run_folder) / "checkpoints") == ()
