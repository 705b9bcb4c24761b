import errno
import fcntl
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import events
from orchestrator.config import LimitsConfig, RunConfig
from orchestrator.errors import RunFolderError
from orchestrator.events import as_record
from orchestrator.json_lines import open_for_append, read_lines, replace_text, to_json
from orchestrator.policies import best_steps
from orchestrator.run_folder import Identity, RunFolder, default_run_folder, read_history
from workers.checkpoint import committed_steps

IDENTITY = Identity("abc", "d1", RunConfig(parameters={"dim": 8}).identity("data"))


def identity(program="abc", data="d1", **changes):
    return Identity(program, data, dict(IDENTITY.config) | changes)


def start(path):
    with RunFolder(path, resume=False) as folder:
        folder.write_identity(IDENTITY, RunConfig().to_yaml())


def test_a_folder_in_use_is_refused_with_who_holds_it(tmp_path):
    with RunFolder(tmp_path / "run", resume=False):
        with pytest.raises(RunFolderError) as caught:
            RunFolder(tmp_path / "run", resume=True)
        assert f"is in use by process {os.getpid()} on" in str(caught.value)
        assert str(tmp_path / "run") in str(caught.value)
    RunFolder(tmp_path / "run", resume=False).close()


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from orchestrator.run_folder import RunFolder\n"
        "folder = RunFolder(Path(sys.argv[1]), resume=False)\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    with pytest.raises(RunFolderError, match=f"process {process.pid} "):
        RunFolder(tmp_path / "run", resume=False)
    process.kill()
    process.communicate()
    RunFolder(tmp_path / "run", resume=False).close()


def test_a_folder_that_holds_something_needs_resume(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match=r"is not empty \(it holds notes.txt\): pass --resume"):
        RunFolder(tmp_path, resume=False)
    with pytest.raises(RunFolderError, match="holds no run"):
        RunFolder(tmp_path, resume=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("resume", [False, True])
def test_a_missing_or_empty_folder_starts_anew(tmp_path, resume):
    for path in (tmp_path / "a" / "b", tmp_path / "a" / "b"):
        with RunFolder(path, resume=resume) as folder:
            assert not folder.resumed


def test_a_path_that_cannot_be_a_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=r"cannot use .*file as the run's folder"):
        RunFolder(tmp_path / "file", resume=False)


def test_resume_refuses_another_configuration_and_names_the_key_and_both_values(tmp_path):
    start(tmp_path)
    with RunFolder(tmp_path, resume=True) as folder:
        assert folder.resumed
        folder.check_identity(IDENTITY)
        before = IDENTITY.config["batch_size"]
        with pytest.raises(RunFolderError, match=f"batch_size was {before} and is now 64"):
            folder.check_identity(identity(batch_size=64))
        rest = {key: value for key, value in IDENTITY.config.items() if key != "parameters.dim"}
        with pytest.raises(RunFolderError, match=r"parameters\.dim was 8 and is now None"):
            folder.check_identity(Identity("abc", "d1", rest))
        with pytest.raises(RunFolderError, match="fingerprint was 'abc' and is now 'xyz'"):
            folder.check_identity(identity(program="xyz"))
        with pytest.raises(
            RunFolderError, match="of its data was 'd1' and is now 'd2', so files or row groups of "
            "data have changed since",
        ):  # fmt: skip
            folder.check_identity(identity(data="d2"))


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_left_before_the_run_was_written_down_starts_anew(tmp_path, monkeypatch, resume):
    """Killed at any moment, a driver leaves a folder that can be used again."""

    class Killed(BaseException):
        pass

    def killed(source, target):
        raise Killed

    with monkeypatch.context() as patched, RunFolder(tmp_path, resume=False) as folder:
        patched.setattr(Path, "replace", killed)
        with pytest.raises(Killed):
            folder.write_identity(IDENTITY, RunConfig().to_yaml())
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".identity.json")]
    with RunFolder(tmp_path, resume=resume) as folder:
        assert not folder.resumed


def test_a_folder_left_right_after_the_identity_can_be_resumed(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    plain = Path.replace

    def killed(source, target):
        if target.name != "identity.json":
            raise Killed
        return plain(source, target)

    with monkeypatch.context() as patched, RunFolder(tmp_path, resume=False) as folder:
        patched.setattr(Path, "replace", killed)
        with pytest.raises(Killed):
            folder.write_identity(IDENTITY, RunConfig().to_yaml())
    with RunFolder(tmp_path, resume=True) as folder:
        assert folder.resumed
        folder.check_identity(IDENTITY)
        folder.write_identity(IDENTITY, RunConfig().to_yaml())
        assert folder.checkpoints.is_dir()
        assert (tmp_path / "config.yaml").exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP])
def test_a_file_system_without_locks_is_named_with_a_way_out(tmp_path, monkeypatch, number):
    def no_locks(file, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(RunFolderError) as caught:
        RunFolder(tmp_path / "run", resume=False)
    assert f"cannot lock files ({os.strerror(number)})" in str(caught.value)
    assert "another file system with --run-dir" in str(caught.value)


def test_a_checkpoint_is_set_aside_under_another_name(tmp_path):
    with RunFolder(tmp_path, resume=False) as folder:
        for _ in range(2):
            (folder.checkpoints / "30").mkdir(parents=True)
            folder.set_checkpoint_aside(30)
        names = sorted(path.name for path in folder.checkpoints.iterdir())
        assert names == ["30.unreadable", "30.unreadable-2"]
        assert committed_steps(folder.checkpoints) == ()
        with pytest.raises(RunFolderError, match=r"step 30 in .*remove it by hand"):
            folder.set_checkpoint_aside(30)


def test_the_newest_plan_is_the_one_with_the_highest_number(tmp_path):
    with RunFolder(tmp_path, resume=False) as folder:
        assert folder.newest_plan() is None
        for version in (1, 2, 10):
            (tmp_path / f"plan-{version}.json").write_text(str(version))
        (tmp_path / "plan-x.json").write_text("x")
        assert folder.newest_plan() == "10"


def test_default_folders_do_not_collide(tmp_path):
    first = default_run_folder("flights", tmp_path)
    assert re.fullmatch(r"flights-\d{8}-\d{6}", first.name)
    first.mkdir()
    second = default_run_folder("flights", tmp_path)
    assert second != first
    assert not second.exists()


LIMITS = {"s": LimitsConfig(
    max_ids_per_partition=8, max_unique_ids_per_partition=8, buffer_size_per_device=64
)}  # fmt: skip


def lease(first, last, launch=0):
    return events.LeaseDone(
        launch=launch, lease=0, first=first, last=last, loss=0.5, examples=(last - first) * 4,
        elapsed=1.0, seconds={}, stages={}, losses=[0.5] * (last - first), steps_per_epoch=50,
    )  # fmt: skip


def test_history_is_what_led_to_the_present_state(tmp_path):
    happened = [
        events.Launching(0, 2),
        events.PlanMade(0, "h", "auto", "{}"),
        events.PlanMade(1, "h", RunConfig(limits=LIMITS).model_dump(mode="json")["limits"], "{}"),
        events.Restored(0),
        lease(0, 30),
        lease(30, 50),
        events.Evaluated(50, 1, "test", {"auc": 0.7}, 1.0),
        lease(50, 60),
        events.Recovering("died", [1], "host 1 died", 60, 1),
        events.Launching(1, 2),
        events.Restored(30),
        lease(30, 50, 1),
        events.Evaluated(50, 1, "test", {"auc": float("nan")}, 1.0),
        lease(50, 50, 1),
    ]
    path = tmp_path / "events.jsonl"
    with path.open("w") as file:
        for event in happened:
            file.write(to_json(as_record(1.0, event)) + "\n")
        file.write('{"time": 3, "kind": "lease_d')
    history = read_history(path)
    assert (history.launches, history.restarts, history.furthest) == (2, 1, 60)
    assert history.leases == ((0, 30, 120), (30, 50, 80))
    assert history.evaluations.keys() == {50}
    assert math.isnan(history.evaluations[50]["auc"])
    assert history.limits == {"s": LIMITS["s"].model_dump()}


def test_figures_that_were_no_numbers_are_none_in_the_history_either(tmp_path):
    figures = [{"auc": math.nan, "loss": 0.7}, {"auc": 0.6, "loss": 0.5}]
    for step, metrics in enumerate(figures):
        line = to_json({"kind": "evaluated", "step": step, "metrics": metrics})
        with (tmp_path / "events.jsonl").open("a") as file:
            file.write(line + "\n")
    found = read_history(tmp_path / "events.jsonl").evaluations
    assert math.isnan(found[0].pop("auc"))
    assert found == {0: {"loss": 0.7}, 1: figures[1]}
    assert best_steps(read_history(tmp_path / "events.jsonl").evaluations, "auc", "max", 2) == (1,)


def test_history_holds_the_size_of_the_last_plan_and_the_steps_left_out(tmp_path):
    happened = [
        events.RunStarted("folder", "program", 4, 8, 50, 100),
        events.Launching(0, 4),
        events.PlanMade(0, "a", "auto", "{}"),
        events.StepSkipped(17, "the loss is nan", "skip"),
        events.Shrunk(2, (2, 3)),
        events.Launching(1, 2),
        events.PlanMade(1, "b", "auto", "{}"),
    ]
    path = tmp_path / "events.jsonl"
    path.write_text("".join(to_json(as_record(1.0, event)) + "\n" for event in happened))
    history = read_history(path)
    assert history.cluster == (2, 4)
    assert dict(history.skipped) == {17: "the loss is nan"}


def test_a_line_that_was_cut_off_is_removed_before_more_is_appended(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n{"a')
    assert list(read_lines(path)) == [{"a": 1}, {"a": 2}]
    with open_for_append(path) as file:
        file.write('{"a": 3}\n')
    assert list(read_lines(path)) == [{"a": 1}, {"a": 2}, {"a": 3}]


def test_numbers_that_are_not_finite_become_null():
    text = to_json({"a": [float("nan"), 1.5], "b": float("inf"), 3: (1,)})
    assert json.loads(text) == {"a": [None, 1.5], "b": None, "3": [1]}


def test_replacing_a_file_leaves_no_draft(tmp_path):
    path = Path(tmp_path / "file")
    replace_text(path, ["one"])
    replace_text(path, ["two", "three"])
    assert path.read_text() == "twothree"
    assert list(tmp_path.iterdir()) == [path]
