"""Experiments with a command that stands for ``train``: side by side, crashes, stops, results."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator.cli import main
from orchestrator.errors import ConfigError, RunFolderError
from orchestrator.experiment import Experiment
from orchestrator.experiment.records import TrialRecord
from orchestrator.experiment.results import Results, results_of
from orchestrator.experiment.settings import make_experiment
from orchestrator.experiment.space import Task, settings_of

COMMAND = str(Path(__file__).with_name("fake_training.py"))


def begin(folder: Path, values: dict[str, Any], **options: Any) -> Experiment:
    options = {"say": lambda line: None} | options
    return Experiment(
        make_experiment(values, "here.yaml"),
        folder,
        command=lambda config, run: [sys.executable, COMMAND, str(config), str(run)],
        cluster=(os.environ, {"CPU": 8.0}),
        **options,
    )


def run(folder: Path, values: dict[str, Any], **options: Any) -> Results:
    return begin(folder, values, **options).run()


def starts(folder: Path) -> dict[str, list[int]]:
    """By trial, the step that each of its processes began at."""
    files = (folder / "trials").glob("*/starts")
    return {file.parent.name: [int(n) for n in file.read_text().split()] for file in files}


def test_as_many_side_by_side_as_there_is_room_for(tmp_path: Path) -> None:
    """Trials of 2 hosts with 2 devices on 8 CPUs: each waits until two run at a time."""
    values = {"config": {"parameters.together": 2}, "space": {"parameters.auc": [0.7, 0.6, 0.8]}}
    results = run(tmp_path, values)
    assert not results.failed
    most = [int(file.read_text()) for file in (tmp_path / "trials").glob("*/most")]
    assert max(most) == 2
    assert len(most) == 3
    assert [one.setting.number for one in results.settings] == [2, 0, 1]


def test_one_failure_leaves_the_others_alone(tmp_path: Path) -> None:
    values = {
        "space": {"parameters.fails": ["none", "error", "killed", "no_figure"]},
        "config": {"parameters.auc": 0.75},
        "seeds": [0, 2],
    }
    results = run(tmp_path, values)
    assert results.failed == 6
    assert not results.interrupted
    best, *others = results.settings
    assert best.setting.values == {"parameters.fails": "none"}
    assert best.mean == pytest.approx(0.76, abs=1e-3)
    assert best.spread == pytest.approx(0.0141, abs=1e-3)  # |0.77 - 0.75| / sqrt(2)
    assert all(one.mean is None for one in others)
    said = {trial.task.setting: trial.error for trial in results.trials}
    assert said[1] == "the model is too wide"
    assert said[2] == "its process was ended by SIGKILL"
    assert "no finite test.auc; it has test.auc, test.loss" in str(said[3])

    console = Console(width=200, file=io.StringIO())
    with console.capture() as captured:
        console.print(results.table())
    shown = captured.get()
    assert "0.7600 ± 0.0141" in shown
    assert "2 of 2" in shown
    assert "0 of 2" in shown
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert len(rows) == 8
    assert (rows[0]["trial"], rows[0]["seed"], rows[0]["test.auc"]) == ("000-seed0", "0", "0.75002")
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["finished"] is True
    assert written["settings"][0]["standard_deviation"] == pytest.approx(best.spread)
    assert written["settings"][0]["scores"] == {"0": 0.75002, "2": 0.77002}
    page = (tmp_path / "comparison.html").read_text()
    assert "0.7600 ± 0.0141" in page
    assert "the model is too wide" in page


def test_a_stopped_experiment_goes_on_where_it_was(tmp_path: Path) -> None:
    values = {"space": {"parameters.waits": [False, True, 0]}, "side_by_side": 1}
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if line.startswith("started 001"):
            running = tmp_path / "trials" / "001-seed0" / "running"
            wait_until(running.exists)
            experiment.stop()

    experiment = begin(tmp_path, values, say=say)
    results = experiment.run()
    assert results.interrupted
    assert starts(tmp_path) == {"000-seed0": [0], "001-seed0": [0]}
    assert said[-1] == "interrupted 001-seed0: --resume goes on with it"

    with pytest.raises(RunFolderError, match="not empty: pass --resume"):
        run(tmp_path, values)
    changed = values | {"seeds": [1]}
    with pytest.raises(RunFolderError, match=r"settings.seeds was \[0\] and is now \[1\]"):
        run(tmp_path, changed, resume=True)
    results = run(tmp_path, values | {"side_by_side": 2}, resume=True)
    assert not results.interrupted
    assert not results.failed
    assert starts(tmp_path) == {"000-seed0": [0], "001-seed0": [0, 7], "002-seed0": [0]}
    assert run(tmp_path, values, resume=True).settings == results.settings
    assert len(starts(tmp_path)["002-seed0"]) == 1


def test_a_changed_base_is_another_experiment(tmp_path: Path) -> None:
    base, folder = tmp_path / "base.yaml", tmp_path / "folder"
    base.write_text("batch_size: 64")
    values = {"base": str(base), "space": {"parameters.auc": [0.5]}}
    assert not run(folder, values).failed
    base.write_text("batch_size: 32")
    with pytest.raises(RunFolderError, match=r"first_trial.batch_size was 64 and is now 32"):
        run(folder, values, resume=True)


def test_successive_halving_goes_on_with_the_better_half(tmp_path: Path) -> None:
    values = {
        "space": {"parameters.auc": [0.6, 0.9, 0.7, 0.8]},
        "halving": {"steps": 10, "factor": 2},
    }
    results = run(tmp_path, values)
    assert starts(tmp_path) == {
        "000-seed0": [0],
        "001-seed0": [0, 10, 20],
        "002-seed0": [0],
        "003-seed0": [0, 10],
    }
    assert [(one.setting.number, one.rung) for one in results.settings] == [
        (1, 2),
        (3, 1),
        (2, 0),
        (0, 0),
    ]
    assert [trial.steps for trial in results.trials] == [40, 20, 10, 10]


def test_a_trial_that_failed_is_told_of_though_its_setting_goes_on(tmp_path: Path) -> None:
    halving = {"steps": 10, "factor": 2}
    values = {"space": {"hosts": [1, 2]}, "seeds": [0, 1], "halving": halving}
    settings = make_experiment(values, "here.yaml")
    records = {
        task: TrialRecord(task, "failed" if score is None else "finished", 1.0, score)
        for task, score in {
            Task(0, 0, 0): 0.5,
            Task(0, 0, 1): None,
            Task(0, 1, 0): None,
            Task(0, 1, 1): None,
            Task(1, 0, 0): 0.6,
        }.items()
    }
    results = results_of(settings, settings_of(settings), records, tmp_path, interrupted=False)
    assert results.failed == 3
    assert [(one.rung, one.scores) for one in results.settings] == [
        (1, [0.6, None]),
        (0, [None, None]),
    ]
    assert results.lines()[1][0][4] == "1 of 2"


def test_a_trial_that_is_still_saving_is_waited_for(tmp_path: Path) -> None:
    values = {"space": {"parameters.auc": [0.5, 0.6]}, "side_by_side": 1}
    stopped = begin(tmp_path, values)
    stopped.stop()
    assert stopped.run().interrupted
    assert starts(tmp_path) == {}

    (tmp_path / "trials" / "000-seed0").mkdir()
    held = (tmp_path / "trials" / "000-seed0" / "lock").open("w")
    fcntl.flock(held, fcntl.LOCK_EX)
    said: list[tuple[str, bool]] = []

    def say(line: str) -> None:
        said.append((line.partition(":")[0], held.closed))
        if line.startswith("finished 001"):
            threading.Timer(0.3, held.close).start()

    assert not run(tmp_path, values, say=say, resume=True).failed
    assert said == [
        ("started 001-seed0", False),
        ("finished 001-seed0", False),
        ("started 000-seed0", True),
        ("finished 000-seed0", True),
    ]


def test_failed_trials_are_tried_again_only_when_asked(tmp_path: Path) -> None:
    values = {"space": {"parameters.fails": ["error", "none"]}}
    for options in ({}, {"resume": True}, {"resume": True, "retry_failed": True}):
        assert run(tmp_path, values, **options).failed == 1
    assert starts(tmp_path) == {"000-seed0": [0, 0], "001-seed0": [0]}


def test_a_trial_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    values = {"space": {"parameters.waits": [True]}, "trial_timeout": 0.05, "stop_grace": 10.0}
    results = run(tmp_path, values)
    assert [trial.error for trial in results.trials] == ["it took longer than trial_timeout"]


def test_secrets_are_not_written_down(tmp_path: Path) -> None:
    said: list[str] = []
    values = {
        "space": {"parameters.api_key": ["swordfish-1", "swordfish-2"]},
        "config": {"data": "s3://me:swordfish-3@logs", "parameters.hf_token": "swordfish-4"},
    }
    assert not run(tmp_path, values, say=said.append).failed
    texts = [file.read_text() for file in tmp_path.rglob("*") if file.is_file()]
    assert "swordfish" not in "".join([*said, *texts])
    assert main(["experiment", "--folder", str(tmp_path), "--resume"]) == 2


CHILD = """
import pathlib, signal, sys, time
from orchestrator.trial_process import end_with
mark = pathlib.Path(sys.argv[2])
signal.signal(signal.SIGTERM, lambda *_: (mark.with_name("told").touch(), sys.exit()))
end_with(int(sys.argv[1]))
mark.touch()
time.sleep(30)
"""
PARENT = """
import os, pathlib, subprocess, sys, time
mark = pathlib.Path(sys.argv[2])
words = [sys.executable, "-c", sys.argv[1], str(os.getpid()), str(mark)]
child = subprocess.Popen(words, start_new_session=True)
while not mark.exists() and child.poll() is None:
    time.sleep(0.01)
os._exit(9)  # as when it is killed: nothing is cleared up
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the system tells of a parent's death")
def test_trials_are_told_to_leave_when_their_experiment_dies(tmp_path: Path) -> None:
    words = [sys.executable, "-c", PARENT, CHILD, str(tmp_path / "ready")]
    assert subprocess.run(words, timeout=30, check=False).returncode == 9
    wait_until((tmp_path / "told").exists)
    other = [sys.executable, "-m", "orchestrator.trial_process", "1", "train"]
    assert subprocess.run(other, timeout=30, check=False).returncode == 143


def test_mistakes_are_found_before_anything_starts(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    with pytest.raises(ConfigError, match="with hosts=0"):
        begin(folder, {"space": {"hosts": [1, 0]}})
    assert not folder.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--resume"], "--resume needs --folder"),
        (["e.yaml", "--retry-failed"], "--retry-failed goes with --resume"),
        ([], "give the experiment's file"),
        (["--resume", "--folder", "nothing"], "nothing holds no experiment"),
    ],
)
def test_words_that_do_not_go_together(words: list[str], said: str, capsys: Any) -> None:
    assert main(["experiment", *words]) == 2
    assert said in capsys.readouterr().err


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
