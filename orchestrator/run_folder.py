"""The folder of a run: who may use it, and what lies where.

Each file is whole at any moment, so a killed run can be read and resumed:

    config.yaml               the resolved configuration
    identity.json             what must stay the same on resume
    plan-<version>.json       every plan that was in force
    data-index.arrow          the data's row groups, for the hosts
    events.jsonl              what happened, one JSON object a line
    metrics.jsonl             loss of every step, figures of every evaluation
    hosts.jsonl               time and memory of every host
    summary.json              what the run came to
    report.html               all of that, to look at
    checkpoints/              written by the hosts; <step>.unreadable is one that was set aside
    tensorboard/              curves
    profile/                  traces of JAX's profiler
    logs/  stacks/            what the hosts wrote to their output; stacks of hosts that hung
    lock                      held by the driver while it runs
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import math
import os
import re
import shutil
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from orchestrator.errors import RunFolderError
from orchestrator.json_lines import read_lines, replace_text, to_json
from orchestrator.progress import History
from orchestrator.summary import Summary

__all__ = ["Identity", "RunFolder", "default_run_folder", "read_history"]

_LOCK = "lock"
_DRAFT = re.compile(r"\..+\.new")
"""What a process that was killed while it wrote a file leaves; no part of the run."""
_LEFTOVERS = {
    *("events.jsonl", "metrics.jsonl", "summary.json", "identity.json", "config.yaml"),
    *("hosts.jsonl", "report.html", "data-index.arrow"),
    *("logs", "rows", "stacks", "tensorboard", "profile", "checkpoints"),
}
_PLAN = re.compile(r"plan-(\d+)\.json")


def default_run_folder(program: str, parent: Path = Path("runs")) -> Path:
    """``runs/<program>-<YYYYmmdd-HHMMSS>``, with a number behind it if that is taken."""
    name = f"{program}-{time.strftime('%Y%m%d-%H%M%S')}"
    path, number = parent / name, 1
    while path.exists():
        number += 1
        path = parent / f"{name}-{number}"
    return path


@dataclass(frozen=True)
class Identity:
    """What must stay the same when a run is resumed."""

    program: str
    """Fingerprint of the program's code and parameters."""
    data: str
    """Fingerprint of the data's files and row groups."""
    config: Mapping[str, Any]
    """``RunConfig.identity``: the values of the configuration that matter."""


class RunFolder:
    """A run's folder, locked for this process until it is closed.

    Args:
        path: The folder; made if it is missing.
        resume: Whether to go on with the run that it holds.

    Raises:
        RunFolderError: The folder cannot be made or locked, is in use, holds something and
            ``resume`` is false, or ``resume`` is true and it holds something else than a run.

    Attributes:
        path: Absolute path of the folder.
        resumed: Whether it holds a run to go on with.
    """

    def __init__(self, path: Path, *, resume: bool) -> None:
        self.path = path.absolute()
        self._lock = -1
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise RunFolderError(
                f"cannot use {self.path} as the run's folder: {error.strerror}; choose another "
                "with --run-dir"
            ) from error
        try:
            self._take_lock()
            content = sorted(
                item.name
                for item in self.path.iterdir()
                if item.name != _LOCK and not _DRAFT.fullmatch(item.name)
            )
            self.resumed = bool(content)
            self._check_content(content, resume)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock. May be called twice."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    @property
    def checkpoints(self) -> Path:
        """Where the hosts write checkpoints."""
        return self.path / "checkpoints"

    def check_identity(self, identity: Identity) -> None:
        """Make sure that the run in the folder is the one that is to go on.

        Raises:
            RunFolderError: Something differs; the message names it and both values.
        """
        text = (self.path / "identity.json").read_text(encoding="utf-8")
        stored, now = Identity(**json.loads(text)), json.loads(to_json(identity.config))
        before = stored.config
        differing = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        if differing:
            said = "; ".join(
                f"{key} was {before.get(key)!r} and is now {now.get(key)!r}" for key in differing
            )
            raise RunFolderError(
                f"cannot resume the run in {self.path} with another configuration: {said}; set "
                "it back, or start a new run with another --run-dir"
            )
        if stored.program != identity.program:
            raise RunFolderError(
                f"cannot resume the run in {self.path}: the program's fingerprint was "
                f"{stored.program!r} and is now {identity.program!r}, so the program has "
                "changed since; go back to that version, or start a new run with another --run-dir"
            )
        if stored.data != identity.data:
            raise RunFolderError(
                f"cannot resume the run in {self.path}: the fingerprint of its data was "
                f"{stored.data!r} and is now {identity.data!r}, so files or row groups of "
                f"{now.get('data')} have changed since; put them back, or start a new run with "
                "another --run-dir"
            )

    def start_over(self) -> None:
        """Remove what a run left that saved no checkpoint, so that another can have the folder."""
        for item in list(self.path.iterdir()):
            if item.name in _LEFTOVERS or _PLAN.fullmatch(item.name):
                shutil.rmtree(item) if item.is_dir() else item.unlink()
        self.resumed = False

    def write_identity(self, identity: Identity, config: str) -> None:
        """Write down what the run is; from here on the folder holds a run that can be resumed.

        Args:
            identity: What must stay the same.
            config: The resolved configuration as YAML.
        """
        text = to_json(dataclasses.asdict(identity), indent=2)
        replace_text(self.path / "identity.json", [text, "\n"])
        replace_text(self.path / "config.yaml", [config])
        self.checkpoints.mkdir(exist_ok=True)

    def set_checkpoint_aside(self, step: int) -> None:
        """Rename a checkpoint that cannot be restored, so that another of its step can be saved.

        Only while no host is running, as hosts remember what they have seen in the folder.

        Raises:
            RunFolderError: It cannot be renamed.
        """
        aside = self.checkpoints / f"{step}.unreadable"
        number = 1
        while aside.exists():
            number += 1
            aside = self.checkpoints / f"{step}.unreadable-{number}"
        try:
            (self.checkpoints / str(step)).rename(aside)
        except OSError as error:
            raise RunFolderError(
                f"cannot set the unreadable checkpoint of step {step} in {self.checkpoints} "
                f"aside: {error.strerror}; remove it by hand, and resume the run"
            ) from error

    def finished_summary(self, total_steps: int) -> Summary | None:
        """The summary of a run that has done all of its steps, else None."""
        path = self.path / "summary.json"
        if not path.exists():
            return None
        summary = Summary.read(path)
        return summary if summary.status == "finished" and summary.steps >= total_steps else None

    def newest_plan(self) -> str | None:
        """The JSON of the plan with the highest version, if there is one."""
        versions = [int(m[1]) for p in self.path.iterdir() if (m := _PLAN.fullmatch(p.name))]
        if not versions:
            return None
        return (self.path / f"plan-{max(versions)}.json").read_text(encoding="utf-8")

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._lock, 1000, 0).decode("utf-8", "replace").strip()
            raise RunFolderError(
                f"the run's folder {self.path} is in use by {holder or 'another process'}; wait "
                "for it to end, or choose another with --run-dir"
            ) from None
        except OSError as error:
            raise RunFolderError(
                f"the file system of {self.path} cannot lock files ({error.strerror}): mount it "
                "with locks (for NFS, with its lock service running), or choose a folder on "
                "another file system with --run-dir"
            ) from error
        os.ftruncate(self._lock, 0)
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        text = f"process {os.getpid()} on {socket.gethostname()} since {now}\n"
        os.pwrite(self._lock, text.encode(), 0)

    def _check_content(self, content: list[str], resume: bool) -> None:
        if not content:
            return
        if not resume:
            shown = ", ".join(content[:4]) + (", …" if len(content) > 4 else "")
            raise RunFolderError(
                f"the folder {self.path} is not empty (it holds {shown}): pass --resume to go on "
                "with the run in it, or choose another with --run-dir"
            )
        if "identity.json" not in content:
            raise RunFolderError(
                f"cannot resume: {self.path} holds no run (it has no identity.json); choose the "
                "folder of a run, or an empty one, with --run-dir"
            )


def read_history(events: Path) -> History:
    """What earlier drivers left behind, from their ``events.jsonl``."""
    launches = restarts = furthest = 0
    limits: Any = "auto"
    started = cluster = None
    leases: list[tuple[int, int, int]] = []
    evaluations: dict[int, Mapping[str, float]] = {}
    skipped: dict[int, str] = {}
    for event in read_lines(events):
        match event["kind"]:
            case "run_started":
                started = event["hosts"], event["devices"]
            case "launching":
                launches = max(launches, event["launch"] + 1)
                if started is not None:
                    started = event["hosts"], event["hosts"] * (started[1] // started[0])
            case "step_skipped":
                skipped[event["step"]] = event["reason"]
            case "recovering":
                restarts += 1
            case "plan_made":
                limits, cluster = event["limits"], started
            case "lease_done":
                furthest = max(furthest, event["last"])
                if event["last"] > event["first"]:
                    leases.append((event["first"], event["last"], event["examples"]))
            case "evaluated":
                evaluations[event["step"]] = _figures(event["metrics"])
            case "restored":
                leases = [lease for lease in leases if lease[1] <= event["step"]]
                evaluations = {at: e for at, e in evaluations.items() if at <= event["step"]}
    lasting = limits, cluster, skipped
    return History(launches, restarts, furthest, tuple(leases), evaluations, *lasting)


def _figures(written: Mapping[str, float | None]) -> dict[str, float]:
    """Figures as they were: JSON has null for those that are no numbers."""
    return {name: math.nan if value is None else value for name, value in written.items()}
