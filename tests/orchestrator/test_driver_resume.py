"""A second driver goes on with the folder of a first, however that one ended."""

import json
import os
import signal

import pytest
from driving import evaluations, fit, losses, simulation

from orchestrator import cli
from orchestrator.errors import RunFolderError
from orchestrator.hosts.faults import Fault, ScriptedFaults
from orchestrator.json_lines import read_lines
from workers.errors import CheckpointError, DataError

__all__ = ["simulation"]

LIMITS = {
    "max_ids_per_partition": 8,
    "max_unique_ids_per_partition": 8,
    "buffer_size_per_device": 32,
}


def cut_after(path, is_last):
    """Leave the file as a driver that was killed right after that line."""
    lines = path.read_text().splitlines(keepends=True)
    last = next(number for number, line in enumerate(lines) if is_last(json.loads(line)))
    path.write_text("".join(lines[: last + 1]))


def interrupt_after(simulation, step):
    """Send this process SIGINT, once, when the step before the given one has begun."""

    def interrupt(hosts):
        if hosts.at_step >= step - 1:
            simulation.on_poll = lambda hosts: None
            os.kill(os.getpid(), signal.SIGINT)

    simulation.on_poll = interrupt


def test_a_run_that_was_stopped_is_resumed_to_the_same_end(simulation, tmp_path):
    path = tmp_path / "run"
    before = signal.getsignal(signal.SIGINT)
    interrupt_after(simulation, 50)
    summary = fit(path)
    assert signal.getsignal(signal.SIGINT) is before
    assert (summary.status, summary.steps) == ("interrupted", 50)
    assert json.loads((path / "summary.json").read_text())["status"] == "interrupted"

    with pytest.raises(RunFolderError, match="pass --resume"):
        fit(path)
    with pytest.raises(RunFolderError, match="seed was 0 and is now 7"):
        fit(path, resume=True, seed=7)
    simulation.fingerprint = "two"
    with pytest.raises(RunFolderError, match="fingerprint was 'one' and is now 'two'"):
        fit(path, resume=True)
    simulation.fingerprint = "one"
    simulation.data = "other"
    with pytest.raises(RunFolderError, match="data was 'data' and is now 'other'"):
        fit(path, resume=True)
    simulation.data = "data"
    assert simulation.launches == 1

    summary = fit(path, resume=True, lease_steps=7)
    assert (summary.status, summary.steps, summary.examples) == ("finished", 100, 6400)
    assert losses(path) == list(range(100))
    launches = [e["launch"] for e in read_lines(path / "events.jsonl") if e["kind"] == "launching"]
    assert launches == [0, 1]

    again = fit(path, resume=True)
    assert simulation.launches == 2
    assert again == summary

    plans = [e["version"] for e in read_lines(path / "events.jsonl") if e["kind"] == "plan_made"]
    assert plans == [0]

    longer = fit(path, resume=True, epochs=3)
    assert (longer.status, longer.steps) == ("finished", 150)
    assert losses(path) == list(range(150))


def test_a_run_is_resumed_on_another_number_of_hosts_under_a_new_plan(simulation, tmp_path):
    path = tmp_path / "run"
    interrupt_after(simulation, 50)
    assert fit(path).status == "interrupted"
    summary = fit(path, resume=True, hosts=5)
    assert (summary.status, summary.hosts, summary.steps) == ("finished", 5, 100)
    assert losses(path) == list(range(100))
    seen = [
        (e["kind"], e.get("version", e.get("hosts")))
        for e in read_lines(path / "events.jsonl")
        if e["kind"] in ("run_started", "plan_made")
    ]
    assert seen == [("run_started", 2), ("plan_made", 0), ("run_started", 5), ("plan_made", 1)]

    # Killed again, it goes on with the plan it has.
    (path / "summary.json").unlink()
    fit(path, resume=True, hosts=5, epochs=3)
    assert simulation.launches == 3
    plans = [e["version"] for e in read_lines(path / "events.jsonl") if e["kind"] == "plan_made"]
    assert plans == [0, 1]


def test_a_run_that_was_stopped_before_its_last_evaluation_makes_it_up(simulation, tmp_path):
    path = tmp_path / "run"
    interrupt_after(simulation, 100)
    summary = fit(path)
    assert (summary.status, summary.steps) == ("interrupted", 100)
    assert evaluations(path) == [50]

    summary = fit(path, resume=True)
    assert (summary.status, summary.steps, simulation.launches) == ("finished", 100, 2)
    assert evaluations(path) == [50, 100]
    assert losses(path) == list(range(100))


@pytest.mark.parametrize(
    ("before", "after", "planned"),
    [
        ("auto", {"stack": LIMITS}, [0, 1]),
        ({"stack": LIMITS}, "auto", [0, 1]),
        ({"stack": LIMITS}, {"stack": LIMITS | {"buffer_size_per_device": 64}}, [0, 1]),
        ({"stack": LIMITS}, {"stack": dict(LIMITS)}, [0]),
        ("auto", "auto", [0]),
    ],
)
def test_limits_that_are_changed_on_resume_make_a_new_plan(
    simulation, tmp_path, before, after, planned
):
    path = tmp_path / "run"
    fit(path, epochs=1, limits=before)
    assert fit(path, resume=True, limits=after).status == "finished"
    recorded = list(read_lines(path / "events.jsonl"))
    made = [event for event in recorded if event["kind"] == "plan_made"]
    assert [event["version"] for event in made] == planned
    assert made[-1]["limits"] == after
    confirmed = [event["version"] for event in recorded if event["kind"] == "plan_confirmed"]
    assert confirmed == [0, planned[-1]]
    assert sorted(file.name for file in path.glob("plan-*.json")) == [
        f"plan-{version}.json" for version in planned
    ]
    assert losses(path) == list(range(100))


def test_a_driver_that_dies_before_it_records_a_committed_lease_leaves_no_step_out(
    simulation, tmp_path
):
    """The hosts have committed step 90, but neither events nor metrics tell of the steps to it."""
    path = tmp_path / "run"
    fit(path, max_steps=90)
    cut_after(path / "events.jsonl", lambda e: e["kind"] == "lease_done" and e["last"] == 80)
    cut_after(path / "metrics.jsonl", lambda e: e["step"] == 79)
    (path / "summary.json").unlink()
    summary = fit(path, resume=True)
    assert (summary.steps, summary.examples) == (100, 6400)
    assert losses(path) == list(range(100))
    events = list(read_lines(path / "events.jsonl"))
    assert [event["step"] for event in events if event["kind"] == "restored"] == [0, 60]


def test_steps_that_no_checkpoint_can_bring_back_are_reported(simulation, tmp_path):
    path = tmp_path / "run"
    fit(path, max_steps=90)
    cut_after(path / "events.jsonl", lambda e: e["kind"] == "lease_done" and e["last"] == 20)
    cut_after(path / "metrics.jsonl", lambda e: e["step"] == 19)
    (path / "summary.json").unlink()
    for step in (30, 60):
        (path / "checkpoints" / str(step)).rmdir()
    (world,) = simulation.worlds.values()
    world.committed = [90]
    assert fit(path, resume=True).steps == 100
    assert losses(path) == [*range(20), *range(90, 100)]
    (gap,) = [e for e in read_lines(path / "events.jsonl") if e["kind"] == "steps_unrecorded"]
    assert (gap["first"], gap["last"]) == (20, 90)


def test_an_unreadable_checkpoint_is_set_aside_in_the_folder(simulation, tmp_path):
    path = tmp_path / "run"
    fit(path, max_steps=95)
    error = CheckpointError("cannot be read: broken.json")
    simulation.faults = ScriptedFaults([Fault("raise", 1, during="Restore", error=error)])
    (world,) = simulation.worlds.values()
    world.committed = [60, 90, 95]
    summary = fit(path, resume=True, failures={"grace": 0.0})
    assert (summary.status, summary.examples) == ("finished", 6400)
    assert losses(path) == list(range(100))
    names = {item.name for item in (path / "checkpoints").iterdir()}
    assert "95.unreadable" in names
    (skipped,) = [e for e in read_lines(path / "events.jsonl") if e["kind"] == "checkpoint_skipped"]
    assert (skipped["step"], skipped["reason"]) == (95, "cannot be read: broken.json")


def test_resume_with_nothing_there_starts_anew(simulation, tmp_path):
    assert fit(tmp_path / "run", resume=True).steps == 100


def test_a_run_that_saved_nothing_gives_its_folder_to_another(simulation, tmp_path):
    path = tmp_path / "run"
    simulation.faults = ScriptedFaults([Fault("raise", 0, step=5, error=DataError("bad row"))])
    with pytest.raises(DataError, match="bad row"):
        fit(path)
    simulation.faults = None
    assert fit(path, resume=True, seed=9).status == "finished"
    assert [e["kind"] for e in read_lines(path / "events.jsonl")].count("run_started") == 1


def test_resume_without_settings_takes_those_of_the_run(tmp_path):
    from argparse import Namespace

    (tmp_path / "config.yaml").write_text("seed: 5\n")
    assert cli._resumed_config(Namespace(resume=True, run_dir=tmp_path)) == tmp_path / "config.yaml"
    assert cli._resumed_config(Namespace(resume=False, run_dir=tmp_path)) is None
    assert cli._resumed_config(Namespace(resume=True, run_dir=tmp_path / "none")) is None
