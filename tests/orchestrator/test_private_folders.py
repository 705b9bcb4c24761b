"""Folders of killed processes are removed by the next one; those in use, and others', never."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from orchestrator import private_folders
from orchestrator.private_folders import private_folder, remove_left_folders

OWNER = """
import sys, time
from pathlib import Path
from orchestrator import private_folders

private_folders._PARENT = Path(sys.argv[1])
with private_folders.private_folder() as folder:
    (folder / "ray" / "session").mkdir(parents=True)
    (folder / "ray" / "session" / "log").write_text("words")
    (folder / "ray" / "latest").symlink_to("session")
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(private_folders, "_PARENT", tmp_path)
    return tmp_path


def owner(parent: Path) -> tuple[subprocess.Popen[str], Path]:
    """A process with a folder of its own, and that folder."""
    words = [sys.executable, "-c", OWNER, str(parent)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(60)


def test_what_a_killed_process_leaves_is_removed_by_the_next(parent: Path) -> None:
    killed, left = owner(parent)
    alive, used = owner(parent)
    # Frozen is not dead.
    alive.send_signal(signal.SIGSTOP)
    try:
        kill(killed)
        assert left.is_dir()
        with private_folder() as own:
            assert not left.exists()
            assert used.is_dir()
            remove_left_folders(60.0)
            assert own.is_dir(), "that of this very process"
        assert not own.exists()
        assert (used / "ray" / "session" / "log").read_text() == "words"
    finally:
        kill(alive)
    remove_left_folders(60.0)
    assert list(parent.iterdir()) == []


def test_a_folder_that_some_process_still_works_in_stays(parent: Path) -> None:
    killed, left = owner(parent)
    kill(killed)
    words = [sys.executable, "-S", "-c", "import time; time.sleep(600)", f"--dir={left}/ray"]
    worker = subprocess.Popen(words, text=True)
    try:
        remove_left_folders(60.0)
        assert (left / "ray" / "session" / "log").exists()
    finally:
        kill(worker)
    remove_left_folders(60.0)
    assert not left.exists()


def test_folders_that_others_made_are_left_alone(
    parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (parent / "emberay-data").mkdir()
    (parent / "emberay-data" / "part.parquet").touch()
    (parent / "emberay-notes").write_text("no folder")
    killed, left = owner(parent)
    kill(killed)
    (parent / "emberay-link").symlink_to(left)
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
    remove_left_folders(60.0)
    names = {"emberay-data", "emberay-notes", "emberay-link", left.name}
    assert {entry.name for entry in parent.iterdir()} == names
    monkeypatch.undo()
    monkeypatch.setattr(private_folders, "_PARENT", parent)
    remove_left_folders(60.0)
    assert {entry.name for entry in parent.iterdir()} == names - {left.name}


def test_a_removal_that_is_cut_short_is_finished_later(
    parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed, left = owner(parent)
    kill(killed)
    go_on, done = threading.Event(), threading.Event()

    def slow(path: Path, **named: bool) -> None:
        assert go_on.wait(60)
        done.set()

    with monkeypatch.context() as patched:
        patched.setattr(private_folders.shutil, "rmtree", slow)
        remove_left_folders(0.1)
        assert not done.is_set(), "it waited for no end"
        go_on.set()
        assert done.wait(60)
        for thread in threading.enumerate():
            if thread.name == "left-folders":
                thread.join(60)
    assert (left / "owner").exists(), "without its lock nobody would dare to remove it"
    remove_left_folders(60.0)
    assert not left.exists()
