"""The driver from configuration to summary, with simulated hosts in place of Ray's."""

import json
import os
import signal
from types import SimpleNamespace

import pytest
import yaml

import workers.launch
import workers.program
from orchestrator import cli, driver
from orchestrator.config import RunConfig
from orchestrator.driver import Driver
from orchestrator.errors import ConfigError, RunFailed, RunFolderError
from orchestrator.hosts.faults import Fault, ScriptedFaults
from orchestrator.hosts.simulated import SimulatedHosts
from orchestrator.hosts.simulated_world import FakeClock, SimulatedPlan, SimulatedPlanner, World
from orchestrator.json_lines import read_lines
from orchestrator.summary import Summary
from workers.errors import CheckpointError, DataError
from workers.launch import DataSummary

SETTINGS = {
    "program": "simulated:program",
    "epochs": 2,
    "lease_steps": 10,
    "devices_per_host": 1,
    "checkpoints": {"every": 30},
}
LIMITS = {
    "max_ids_per_partition": 8,
    "max_unique_ids_per_partition": 8,
    "buffer_size_per_device": 32,
}


class Simulation:
    """What the driver meets instead of Ray, workers and data."""

    def __init__(self):
        self.faults = None
        self.fingerprint = "one"
        self.data = "data"
        self.error = None
        self.on_poll = lambda hosts: None
        self.worlds = {}
        self.launches = 0

    def open_hosts(self, run, config, stack):
        from pathlib import Path

        simulation = self

        class Hosts(SimulatedHosts):
            folder = Path(run.run_folder) / "checkpoints"

            def launch(self, assignments):
                simulation.launches += 1
                super().launch(assignments)

            def poll(self, timeout):
                simulation.on_poll(self)
                seen = super().poll(timeout)
                self.committed()
                return seen

            def committed(self):
                steps = super().committed()
                for step in steps:
                    (self.folder / str(step)).mkdir(exist_ok=True)
                return steps

        world = self.worlds.setdefault(run.run_folder, World(steps_per_epoch=50, data=self.data))
        return Hosts(FakeClock(), world, faults=self.faults)


@pytest.fixture
def simulation(monkeypatch):
    simulation = Simulation()

    def check_inputs(program, run, hosts):
        if simulation.error is not None:
            raise simulation.error
        return DataSummary(3200, 100, 50, 1, simulation.data)

    program = SimpleNamespace(name="simulated", fingerprint=lambda: simulation.fingerprint)
    monkeypatch.setattr(workers.program, "load_program", lambda *arguments: program)
    monkeypatch.setattr(workers.launch, "resolve_data", lambda program, data: data or "own data")
    monkeypatch.setattr(workers.launch, "check_inputs", check_inputs)
    monkeypatch.setattr(driver, "open_hosts", simulation.open_hosts)
    monkeypatch.setattr(driver, "LaunchPlanner", lambda *arguments: SimulatedPlanner())

    def newest_plan(folder):
        text = folder.newest_plan()
        return None if text is None else SimulatedPlan(**json.loads(text))

    monkeypatch.setattr(driver, "_newest_plan", newest_plan)
    return simulation


def fit(path, *, resume=False, **changes):
    with Driver(SETTINGS | changes, path, resume=resume, quiet=True) as made:
        return made.fit()


def losses(path):
    return [record["step"] for record in read_lines(path / "metrics.jsonl") if "loss" in record
            and "split" not in record]  # fmt: skip


def evaluations(path):
    return [record["step"] for record in read_lines(path / "metrics.jsonl") if "split" in record]


def cut_after(path, is_last):
    """Leave the file as a driver that was killed right after that line."""
    lines = path.read_text().splitlines(keepends=True)
    last = next(number for number, line in enumerate(lines) if is_last(json.loads(line)))
    path.write_text("".join(lines[: last + 1]))


def test_a_run_leaves_a_folder_that_tells_everything(simulation, tmp_path):
    path = tmp_path / "run"
    summary = fit(path)
    assert (summary.status, summary.steps, summary.epochs) == ("finished", 100, 2)
    assert (summary.examples, summary.restarts, summary.hosts, summary.devices) == (6400, 0, 2, 2)
    assert summary.metrics["test"]["auc"] == 1.0
    assert summary.metrics["train"]["examples"] == pytest.approx(3200)
    assert sum(summary.goodput.values()) == pytest.approx(summary.seconds)
    written = json.loads((path / "summary.json").read_text())
    assert written["status"] == "finished"
    assert written["run_folder"] == str(path)
    assert Summary.read(path / "summary.json") == summary

    assert RunConfig.model_validate(yaml.safe_load((path / "config.yaml").read_text())).epochs == 2
    assert json.loads((path / "plan-0.json").read_text()) == {"version": 0, "limit": 1}
    assert losses(path) == list(range(100))
    kinds = [event["kind"] for event in read_lines(path / "events.jsonl")]
    assert (kinds[0], kinds[-1]) == ("run_started", "finished")
    assert any((path / "tensorboard").iterdir())


def test_a_disturbed_run_has_each_step_once(simulation, tmp_path):
    simulation.faults = ScriptedFaults([Fault("die", 1, step=45), Fault("die", 0, step=85)])
    summary = fit(tmp_path / "run")
    assert summary.restarts == 2
    assert losses(tmp_path / "run") == list(range(100))
    assert summary.goodput["repeated_work"] > 0


def test_a_run_that_was_stopped_is_resumed_to_the_same_end(simulation, tmp_path):
    def interrupt(hosts):
        if any(last == 50 for _, _, last in hosts._world.leases):
            simulation.on_poll = lambda hosts: None
            os.kill(os.getpid(), signal.SIGINT)

    path = tmp_path / "run"
    before = signal.getsignal(signal.SIGINT)
    simulation.on_poll = interrupt
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

    longer = fit(path, resume=True, epochs=3)
    assert (longer.status, longer.steps) == ("finished", 150)
    assert losses(path) == list(range(150))


def test_a_run_that_was_stopped_before_its_last_evaluation_makes_it_up(simulation, tmp_path):
    def interrupt(hosts):
        if any(last == 100 for _, _, last in hosts._world.leases):
            simulation.on_poll = lambda hosts: None
            os.kill(os.getpid(), signal.SIGINT)

    path = tmp_path / "run"
    simulation.on_poll = interrupt
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
    summary = fit(path, resume=True)
    assert (summary.status, summary.examples) == ("finished", 6400)
    assert losses(path) == list(range(100))
    names = {item.name for item in (path / "checkpoints").iterdir()}
    assert "95.unreadable" in names
    (skipped,) = [e for e in read_lines(path / "events.jsonl") if e["kind"] == "checkpoint_skipped"]
    assert (skipped["step"], skipped["reason"]) == (95, "cannot be read: broken.json")


def test_resume_with_nothing_there_starts_anew(simulation, tmp_path):
    assert fit(tmp_path / "run", resume=True).steps == 100


def test_a_second_signal_leaves_at_once_and_says_so_in_the_summary(simulation, tmp_path):
    def interrupt(hosts):
        if hosts._world.leases:
            os.kill(os.getpid(), signal.SIGINT)

    simulation.on_poll = interrupt
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "interrupted"


def test_a_run_that_fails_says_why_in_its_summary(simulation, tmp_path):
    simulation.faults = ScriptedFaults([Fault("die", 1, step=45, times=99)])
    with pytest.raises(RunFailed, match="gave up at step 40"):
        fit(tmp_path / "run", failures={"max_restarts": 0})
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["steps"]) == ("failed", 40)
    assert "gave up at step 40" in summary["error"]
    simulation.faults = None
    assert fit(tmp_path / "run", resume=True).status == "finished"


def test_bad_input_is_refused_before_anything_is_launched_or_written(simulation, tmp_path):
    simulation.error = DataError("no column 'label'")
    with pytest.raises(DataError):
        fit(tmp_path / "run")
    assert simulation.launches == 0
    assert not (tmp_path / "run").exists()


def test_the_run_gets_a_folder_of_its_own_when_none_is_named(simulation, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    summary = fit(None)
    (made,) = (tmp_path / "runs").iterdir()
    assert summary.run_folder == str(made)
    assert made.name.startswith("simulated-")


def words(path, *more):
    return ["train", "program=simulated:program", "lease_steps=10", "devices_per_host=1",
            "epochs=1", "--run-dir", str(path), *more]  # fmt: skip


def test_the_command_line_finishes_with_0_and_shows_a_table(simulation, tmp_path, capsys):
    assert cli.main(words(tmp_path / "run")) == 0
    out = capsys.readouterr().out
    assert "simulated: finished" in out
    assert "test AUC" in out
    assert "run folder" in out
    assert cli.main(words(tmp_path / "run", "--resume")) == 0
    assert "simulated: finished" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["bacth_size=3"], "error: unknown key 'bacth_size' (did you mean 'batch_size'?)"),
        (["missing.yaml"], "error: cannot read the configuration missing.yaml: No such file"),
        (["a.yaml", "b.yaml"], "error: one configuration file at most, but 2 are given"),
    ],
)
def test_bad_words_end_with_2_and_one_line(simulation, tmp_path, capsys, more, message):
    assert cli.main(words(tmp_path / "run", *more)) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(message)
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_bad_data_ends_with_2_and_a_failed_run_with_1(simulation, tmp_path, capsys):
    simulation.error = DataError("no column 'label'")
    assert cli.main(words(tmp_path / "run")) == 2
    assert capsys.readouterr().err == "error: no column 'label'\n"
    simulation.error = None
    simulation.faults = ScriptedFaults([Fault("die", 1, step=5, times=99)])
    assert cli.main(words(tmp_path / "run", "failures.max_restarts=0")) == 1
    assert "error: gave up at step 0" in capsys.readouterr().err


def test_an_interrupted_run_ends_with_130(simulation, tmp_path):
    def interrupt(hosts):
        if hosts._world.leases:
            simulation.on_poll = lambda hosts: None
            os.kill(os.getpid(), signal.SIGTERM)

    simulation.on_poll = interrupt
    assert cli.main(words(tmp_path / "run")) == 130


def test_resume_needs_to_know_which_run(capsys):
    assert cli.main(["train", "--resume"]) == 2
    assert "--resume needs --run-dir" in capsys.readouterr().err


def test_without_words_there_is_help_and_the_help_of_train_lists_every_option(capsys):
    assert cli.main([]) == 0
    assert "train" in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        cli.main(["train", "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    from orchestrator.config_help import all_options

    for option in all_options():
        assert f"  {option.name}: {option.type_name} = {option.default}" in out


def test_a_configuration_can_be_a_path_a_mapping_or_made(tmp_path):
    (tmp_path / "config.yaml").write_text("epochs: 4\n")
    for config in (tmp_path / "config.yaml", str(tmp_path / "config.yaml"), {"epochs": 4},
                   RunConfig(epochs=4)):  # fmt: skip
        assert Driver(config).config.epochs == 4
    with pytest.raises(ConfigError):
        Driver({"epoch": 4})
