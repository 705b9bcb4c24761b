"""How a trial ended, from its process and its run's folder."""

from __future__ import annotations

import fcntl
import math
import signal
from pathlib import Path

from orchestrator.experiment.processes import Ended
from orchestrator.experiment.records import TrialRecord
from orchestrator.experiment.space import Task
from orchestrator.summary import Summary

__all__ = ["figure_of", "in_use", "read_trial"]

_INTERRUPTED = 130


def read_trial(task: Task, ended: Ended, run_folder: Path, metric: str) -> TrialRecord | None:
    """What a trial came to; None if it was interrupted, and can go on.

    Args:
        task: Which one.
        ended: How its process ended.
        run_folder: The folder of its run.
        metric: As in the experiment's settings.
    """
    timed_out = ended.stopped is not None and ended.stopped != "interrupted"
    if ended.code != 0:
        if not timed_out and (ended.stopped is not None or ended.code == _INTERRUPTED):
            return None
        return TrialRecord(task, "failed", ended.seconds, error=_why(ended, run_folder, timed_out))
    try:
        summary = Summary.read(run_folder / "summary.json")
    except (OSError, ValueError, TypeError) as error:
        said = f"it ended well, but left no summary.json that can be read: {error}"
        return TrialRecord(task, "failed", ended.seconds, error=said)
    score = figure_of(summary, metric)
    known = score is not None and math.isfinite(score)
    figures = ", ".join(f"{s}.{name}" for s, all_ in summary.metrics.items() for name in all_)
    return TrialRecord(
        task,
        "finished" if known else "failed",
        ended.seconds,
        score=score if known else None,
        steps=summary.steps,
        examples_per_second=summary.examples_per_second,
        metrics=summary.metrics,
        error=None if known else f"its run has no finite {metric}; it has {figures}",
    )


def in_use(run_folder: Path) -> bool:
    """Whether a driver still runs in a folder, as one may whose experiment was killed."""
    try:
        with (run_folder / "lock").open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # none yet, or one that cannot be had: the driver says so itself
        return False
    return False


def figure_of(summary: Summary, metric: str) -> float | None:
    """The figure that a metric names; None if the run has none.

    Args:
        summary: What the run came to.
        metric: ``<split>.<figure>``, ``examples_per_second`` or ``seconds``.
    """
    match metric:
        case "examples_per_second":
            return summary.examples_per_second
        case "seconds":
            return summary.seconds
    split, _, figure = metric.partition(".")
    return summary.metrics.get(split, {}).get(figure)


def _why(ended: Ended, run_folder: Path, timed_out: bool) -> str:
    """Why it failed, in a sentence: as its run says, or the last line that it printed."""
    if timed_out:
        return str(ended.stopped)
    if ended.code < 0:
        return f"its process was ended by {signal.Signals(-ended.code).name}"
    try:
        summary = Summary.read(run_folder / "summary.json")
        said = summary.error if summary.status == "failed" else None
    except (OSError, ValueError, TypeError):
        said = None
    lines = [line for line in ended.last_words.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    last = (errors or lines or [f"exit code {ended.code}"])[-1]
    return said or last.removeprefix("error: ")
