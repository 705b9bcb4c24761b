"""The driver from configuration to summary, with simulated hosts in place of Ray's."""

import json
import os
import resource
import signal

import pytest
import yaml
from driving import SETTINGS, fit, losses, simulation

from orchestrator import cli
from orchestrator.config import RunConfig
from orchestrator.driver import Driver
from orchestrator.errors import ConfigError, RunFailed
from orchestrator.hosts.faults import Fault, ScriptedFaults
from orchestrator.json_lines import read_lines
from orchestrator.summary import Summary
from workers.errors import DataError, StorageFull

__all__ = ["simulation"]


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


def test_no_room_for_the_runs_own_files(simulation, tmp_path):
    events = tmp_path / "run" / "events.jsonl"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_the_disk(hosts):
        if len(hosts._world.leases) > 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (events.stat().st_size, before[1]))

    simulation.on_poll = fill_the_disk
    try:
        with pytest.raises(StorageFull, match=r"no room for the run's files in '.*run': free some"):
            fit(tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    simulation.on_poll = lambda hosts: None
    assert fit(tmp_path / "run", resume=True).status == "finished"
    assert losses(tmp_path / "run") == list(range(100))


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


def test_a_resize_before_the_start_and_while_it_runs(simulation, tmp_path):
    with Driver(SETTINGS | {"batch_size": 96}, tmp_path / "run", quiet=True) as made:
        made.resize(3)
        assert made.config.hosts == 3
        with pytest.raises(ConfigError, match="it needs at least one"):
            made.resize(0)
        with pytest.raises(ConfigError, match="resized to 7 hosts: batch_size 96 cannot be spread"):
            made.resize(7)

        def resize(hosts):
            if hosts.at_step >= 40:
                simulation.on_poll = lambda hosts: None
                made.resize(1)

        simulation.on_poll = resize
        summary = made.fit()
    assert (summary.status, summary.hosts, summary.devices) == ("finished", 1, 1)
    assert losses(tmp_path / "run") == list(range(100))
    launched = [
        event["hosts"]
        for event in read_lines(tmp_path / "run" / "events.jsonl")
        if event["kind"] == "launching"
    ]
    assert launched == [3, 1]


def test_sizes_that_a_batch_cannot_be_spread_over_are_refused_at_the_start(simulation, tmp_path):
    with pytest.raises(DataError, match="batch_size 64 cannot be spread over 3 hosts"):
        fit(tmp_path / "run", batch_size=64, elastic={"sizes": [3]})
    assert simulation.launches == 0
