"""The folder of an experiment: what it is, and what each trial came to.

experiment.json     the experiment's settings and those its trials start from, to resume it
trials.jsonl        a line for each trial that came to the end of a rung
trials/<trial>/     the run's folder of each trial, as of any other run
logs/<trial>.log    what it printed
results.csv         a line for each trial
results.json        the same, and every setting with mean and spread
comparison.html     all of that, to look at
lock                held while the experiment runs
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from orchestrator.config import RunConfig
from orchestrator.errors import ConfigError, RunFolderError
from orchestrator.experiment.rungs import Outcome
from orchestrator.experiment.settings import ExperimentSettings, make_experiment
from orchestrator.experiment.space import Task
from orchestrator.json_lines import open_for_append, read_lines, replace_text, to_json
from workers.redaction import Redactor, hidden_in

__all__ = ["ExperimentFolder", "TrialRecord", "kept_settings"]

_KEPT = "experiment.json"
_FREE = ("name", "base", "side_by_side", "trial_timeout", "stop_grace")
"""Settings that may change on resume; what ``base`` holds counts, in the first trial."""


@dataclass(frozen=True)
class TrialRecord:
    """What a trial came to at the end of a rung."""

    task: Task
    status: Literal["finished", "failed"]
    seconds: float
    """Wall seconds of its process in this rung, without those of interrupted ones before."""
    score: float | None = None
    steps: int = 0
    examples_per_second: float = 0.0
    metrics: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    """As in the run's ``summary.json``."""
    error: str | None = None
    """Why it failed."""

    @property
    def outcome(self) -> Outcome:
        """What decides which trials are due next."""
        return Outcome(self.status, self.score)


class ExperimentFolder:
    """An experiment's folder, locked for this process until it is closed.

    Args:
        path: The folder; made if it is missing.
        resume: Whether to go on with the experiment that it holds.

    Raises:
        RunFolderError: It cannot be made or locked, is in use, or holds something else.
    """

    def __init__(self, path: Path, *, resume: bool) -> None:
        self.path = path.absolute()
        self._open = ExitStack()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = self._open.enter_context((self.path / "lock").open("a"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._open.close()
            raise RunFolderError(
                f"the experiment in {self.path} is running: wait for it to end, or choose another "
                "folder with --folder"
            ) from None
        except OSError as error:
            self._open.close()
            raise RunFolderError(
                f"cannot use {self.path} as the experiment's folder: {error.strerror}; choose "
                "another with --folder"
            ) from error
        names = sorted(item.name for item in self.path.iterdir())
        # Behind a dot are drafts of a process that was killed while it wrote.
        content = [name for name in names if name != "lock" and not name.startswith(".")]
        self.resumed = bool(content)
        wrong = None
        if content and not resume:
            wrong = "is not empty: pass --resume to go on with the experiment in it"
        elif content and _KEPT not in content:
            wrong = f"holds no experiment (it has no {_KEPT})"
        if wrong:
            self._open.close()
            raise RunFolderError(f"the folder {self.path} {wrong}, or choose another with --folder")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open.close()

    def keep(self, settings: ExperimentSettings, first: RunConfig) -> None:
        """Write down what the experiment is, or make sure that it is the one of the folder.

        Args:
            settings: The experiment.
            first: Configuration of its first trial, which tells what ``base`` held.

        Raises:
            RunFolderError: It is another one; the message names what differs.
        """
        values = {
            "settings": settings.model_dump(mode="json"),
            "first_trial": first.model_dump(mode="json"),
        }
        hide = Redactor.of(*values.values(), os.environ)
        now = json.loads(to_json(hide.values(values)))
        if self.resumed:
            before = json.loads((self.path / _KEPT).read_text(encoding="utf-8"))
            differing = [
                f"{part}.{key} was {before[part].get(key)!r} and is now {now[part].get(key)!r}"
                for part in values
                for key in {**before[part], **now[part]}
                if before[part].get(key) != now[part].get(key)
                and not (part == "settings" and key in _FREE)
            ]
            if differing:
                raise RunFolderError(
                    f"cannot resume the experiment in {self.path} as another one: "
                    f"{'; '.join(differing)}; set it back, or choose another folder with --folder"
                )
        replace_text(self.path / _KEPT, [to_json(now, indent=2), "\n"])
        for name in ("trials", "logs"):
            (self.path / name).mkdir(exist_ok=True)

    def records(self) -> dict[Task, TrialRecord]:
        """What has ended, by task; the newest where one was tried again."""
        found = {}
        for line in read_lines(self.path / "trials.jsonl"):
            task = Task(**line.pop("task"))
            found[task] = TrialRecord(task=task, **line)
        return found

    def add(self, record: TrialRecord) -> None:
        """Write down that a trial has ended."""
        with open_for_append(self.path / "trials.jsonl") as file:
            file.write(to_json(asdict(record)) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def run_folder(self, task: Task) -> Path:
        """The folder of a trial's run."""
        return self.path / "trials" / task.trial

    def log(self, task: Task) -> Path:
        """The file of what a trial prints."""
        return self.path / "logs" / f"{task.trial}.log"


def kept_settings(folder: Path) -> ExperimentSettings:
    """The settings of the experiment in a folder, to go on with it.

    Raises:
        RunFolderError: There is no experiment.
        ConfigError: They had secrets in them, which are not written down.
    """
    try:
        values = json.loads((folder / _KEPT).read_text(encoding="utf-8"))["settings"]
    except OSError:
        raise RunFolderError(
            f"{folder} holds no experiment (it has no {_KEPT}): give the experiment's file"
        ) from None
    hidden = next(hidden_in(values), None)
    if hidden:
        raise ConfigError(
            f"{folder / _KEPT} does not hold {hidden}, as secrets are not written down: give the "
            "experiment's file again"
        )
    return make_experiment(values, str(folder / _KEPT))
