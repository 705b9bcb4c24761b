"""Storage that answers with errors for a while, or for good: nothing that is committed is lost."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from driving import Simulation, fit, losses, simulation

import workers.checkpoint
from orchestrator import cli, driver
from orchestrator.chosen_step import chosen_step
from orchestrator.config import RunConfig
from orchestrator.errors import RunFolderError, StorageUnavailable
from orchestrator.hosts.faults import Fault, ScriptedFaults
from orchestrator.hosts.simulated_world import FakeClock
from orchestrator.json_lines import read_lines
from orchestrator.retention import Retention
from orchestrator.shared_storage import LONGEST_PAUSE_SECONDS, SharedStorage, storage_wanted
from workers.checkpoint import committed_steps

__all__ = ["simulation"]


class Pauses:
    """A clock that is moved by waiting alone, and what is done at each wait."""

    def __init__(self, at_wait: Callable[[int], object] = lambda number: None) -> None:
        self.clock, self.pauses, self.at_wait = FakeClock(), list[float](), at_wait

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.clock.now += seconds
        self.at_wait(len(self.pauses))

    def storage(self, folder: Path, timeout: float = 60.0) -> SharedStorage:
        return SharedStorage(folder, timeout, clock=self.clock, sleep=self.sleep)


def trouble(number: int, path: Path | str = "somewhere") -> OSError:
    return OSError(number, os.strerror(number), str(path))


def failing(look: Callable[..., object], times: int, number: int) -> Callable[..., object]:
    """The same, but so many calls fail first."""
    left = [times]

    def looked(*arguments: object, **named: object) -> object:
        if left[0]:
            left[0] -= 1
            raise trouble(number)
        return look(*arguments, **named)

    return looked


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.ENOENT, errno.ETIMEDOUT])
def test_trouble_that_passes_is_waited_for(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "30").mkdir()
    waits = Pauses()
    storage = waits.storage(tmp_path)
    monkeypatch.setattr(workers.checkpoint, "committed_steps", failing(committed_steps, 9, number))
    assert storage.committed() == (30,)
    assert len(waits.pauses) == 9
    assert waits.pauses == sorted(waits.pauses)
    assert max(waits.pauses) == LONGEST_PAUSE_SECONDS
    monkeypatch.setattr(shutil, "disk_usage", failing(shutil.disk_usage, 1, number))
    assert storage.free() > 0
    assert len(waits.pauses) == 10


def test_trouble_that_stays_is_one_error_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = Pauses()
    monkeypatch.setattr(shutil, "disk_usage", failing(shutil.disk_usage, 999, errno.ESTALE))
    with pytest.raises(StorageUnavailable) as caught:
        waits.storage(tmp_path, 20.0).free()
    assert sum(waits.pauses) == pytest.approx(20.0)
    said = str(caught.value)
    assert str(tmp_path) in said
    assert "ESTALE" in said
    assert "failures.storage_timeout is 20" in said
    assert "go on with --resume" in said
    assert caught.value.errno == errno.ESTALE
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.path, copy.errno) == (said, caught.value.path, errno.ESTALE)


def test_a_driver_that_must_leave_waits_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = Pauses(lambda number: storage.leave_within(5.0) if number == 3 else None)
    storage = waits.storage(tmp_path, 600.0)
    monkeypatch.setattr(shutil, "disk_usage", failing(shutil.disk_usage, 999, errno.EIO))
    with pytest.raises(StorageUnavailable):
        storage.free()
    assert sum(waits.pauses[3:]) == pytest.approx(5.0)


def test_a_folder_that_hides_is_none_without_checkpoints(tmp_path: Path) -> None:
    folder, hidden = tmp_path / "checkpoints", tmp_path / "hidden"
    (folder / "30").mkdir(parents=True)
    folder.rename(hidden)
    waits = Pauses(lambda number: hidden.rename(folder) if number == 2 else None)
    assert waits.storage(folder).committed() == (30,)
    assert len(waits.pauses) == 2
    # Before it is made, it may be missing; but not while the folder above names it.
    folder.rename(hidden)
    assert waits.storage(folder).committed(made=False) == ()
    folder.symlink_to(tmp_path / "nowhere")
    with pytest.raises(StorageUnavailable, match="ENOENT"):
        Pauses().storage(folder).committed(made=False)


def no_pauses(monkeypatch: pytest.MonkeyPatch) -> Pauses:
    """Let the driver wait on a clock of its own."""
    waits = Pauses()
    monkeypatch.setattr(driver, "SharedStorage", lambda *given: waits.storage(*given))
    return waits


def test_a_recovery_over_trouble_starts_from_the_checkpoint(
    simulation: Simulation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = no_pauses(monkeypatch)
    simulation.faults = ScriptedFaults([Fault("die", 1, step=45)])

    def begin(hosts: object) -> None:
        if simulation.launches == 2:  # the recovery: it asks what is committed
            simulation.on_poll = lambda hosts: None
            monkeypatch.setattr(
                workers.checkpoint, "committed_steps", failing(committed_steps, 5, errno.ESTALE)
            )

    simulation.on_poll = begin
    path = tmp_path / "run"
    assert fit(path).status == "finished"
    assert len(waits.pauses) == 5
    restored = [e["step"] for e in read_lines(path / "events.jsonl") if e["kind"] == "restoring"]
    assert restored == [None, 30]
    assert losses(path) == list(range(100))


@pytest.mark.parametrize("what", ["list", "free", "sink"])
def test_a_run_ends_with_one_error_and_is_resumed(
    what: str,
    simulation: Simulation,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    no_pauses(monkeypatch)
    path = tmp_path / "run"
    words = ["train", "program=simulated:program", "epochs=2", "lease_steps=10"]
    words += ["devices_per_host=1", "checkpoints.every=30", "--run-dir", str(path)]
    with monkeypatch.context() as broken:

        def break_storage(hosts: object) -> None:
            if not (path / "checkpoints" / "60").exists():
                return
            match what:
                case "list":
                    look = failing(committed_steps, 999, errno.EIO)
                    broken.setattr(workers.checkpoint, "committed_steps", look)
                case "free":
                    look = failing(shutil.disk_usage, 999, errno.EIO)
                    broken.setattr(shutil, "disk_usage", look)
                case _:  # as a write answers: without a name
                    raise OSError(errno.EIO, os.strerror(errno.EIO))

        simulation.on_poll = break_storage
        assert cli.main(words) == 1
    (line,) = [said for said in capsys.readouterr().err.splitlines() if said.startswith("error")]
    assert "EIO" in line
    assert str(path) in line
    assert "go on with --resume" in line
    summary = json.loads((path / "summary.json").read_text())
    assert summary["status"] == "failed"
    simulation.on_poll = lambda hosts: None
    assert committed_steps(path / "checkpoints")[-1] == 60
    assert cli.main([*words, "--resume"]) == 0
    assert losses(path) == list(range(100))


def test_a_resume_over_trouble_removes_nothing(
    simulation: Simulation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    fit(path, max_steps=60)
    no_pauses(monkeypatch)
    with monkeypatch.context() as broken:
        broken.setattr(
            workers.checkpoint, "committed_steps", failing(committed_steps, 999, errno.ESTALE)
        )
        with pytest.raises(StorageUnavailable):
            fit(path, resume=True, seed=7)
    with pytest.raises(RunFolderError, match="seed was 0 and is now 7"):
        fit(path, resume=True, seed=7)
    assert fit(path, resume=True).status == "finished"


def test_the_cleaning_of_old_checkpoints_lets_no_error_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestrator import events
    from orchestrator.config import CheckpointConfig
    from orchestrator.progress import History

    def stale(path: Path) -> bool:
        raise trouble(errno.ESTALE, path)

    clean = Retention(tmp_path, CheckpointConfig(keep=1), History(), lambda folder: True)
    for step in (10, 20):
        (tmp_path / str(step)).mkdir()
    with monkeypatch.context() as broken:
        broken.setattr(Path, "is_dir", stale)
        clean(0.0, events.Finished(20))
    assert committed_steps(tmp_path) == (10, 20)
    clean(0.0, events.Finished(20))
    assert committed_steps(tmp_path) == (20,)


def test_errors_of_other_files_are_left_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailable, match=r"events.jsonl.*EACCES"), storage_wanted(tmp_path):
        raise trouble(errno.EACCES, tmp_path / "events.jsonl")
    with pytest.raises(FileNotFoundError), storage_wanted(tmp_path):
        raise trouble(errno.ENOENT, "/of/the/users/program")
    with pytest.raises(ConnectionRefusedError), storage_wanted(tmp_path):
        raise OSError(errno.ECONNREFUSED, "refused")


def test_a_command_that_takes_a_checkpoint_says_so_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        workers.checkpoint, "committed_steps", lambda folder: (_ for _ in ()).throw(trouble(5))
    )
    with pytest.raises(StorageUnavailable, match=r"EIO.*its server, and try again"):
        chosen_step(tmp_path, RunConfig(), "newest")
