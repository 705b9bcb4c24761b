"""A run's folder as a value."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.errors import RunFolderError
from orchestrator.json_lines import read_lines
from orchestrator.plain_yaml import read_yaml
from orchestrator.summary import Summary

if TYPE_CHECKING:
    from kernels import EmbeddingPlan

__all__ = ["RunRecord", "read_run"]

_PLAN = re.compile(r"plan-(\d+)\.json")
_ENDS = ("finished", "interrupted", "failed")


@dataclass(frozen=True)
class RunRecord:
    """All that a report tells of a run."""

    name: str
    """The folder's name."""
    folder: str
    events: Sequence[Mapping[str, Any]]
    """Lines of ``events.jsonl``: see ``orchestrator.events``."""
    metrics: Sequence[Mapping[str, Any]]
    """Lines of ``metrics.jsonl``: see ``orchestrator.observe.MetricsFile``."""
    hosts: Sequence[Mapping[str, Any]]
    """Lines of ``hosts.jsonl``: see ``orchestrator.observe.HostsFile``."""
    config: Mapping[str, Any]
    """The resolved configuration."""
    plans: Sequence[EmbeddingPlan] = ()
    """Every plan that was in force, in order; those of other versions of emberay are left out."""
    summary: Summary | None = None
    """What the last driver that came to its end has written; an earlier one's if it did not."""

    @property
    def started(self) -> Mapping[str, Any]:
        """The newest event ``run_started``; empty if there is none."""
        found = (event for event in reversed(self.events) if event["kind"] == "run_started")
        return next(found, {})

    @property
    def status(self) -> Literal["finished", "interrupted", "failed", "not ended"]:
        """How the newest driver ended; ``not ended`` if it runs, or was killed."""
        for event in reversed(self.events):
            if event["kind"] in _ENDS:
                return event["kind"]
            if event["kind"] == "run_started":
                break
        return "not ended"

    @property
    def steps(self) -> int:
        """Steps done by the present state."""
        marks = ("lease_done", "restored")
        for event in reversed(self.events):
            if event["kind"] in marks:
                return event["last" if event["kind"] == "lease_done" else "step"]
        return 0

    def of(self, *kinds: str) -> list[Mapping[str, Any]]:
        """The events of these kinds, in order."""
        return [event for event in self.events if event["kind"] in kinds]


def read_run(folder: Path) -> RunRecord:
    """Read what a run has written so far: it may be running, or have been killed at any moment.

    Raises:
        RunFolderError: There is no run in the folder.
    """
    if not (folder / "events.jsonl").is_file():
        raise RunFolderError(
            f"'{folder}' is no run's folder: it has no events.jsonl; give the folder that "
            "`train` names at its start, or was given with --run-dir"
        )
    events = tuple(read_lines(folder / "events.jsonl"))
    if not events:
        raise RunFolderError(f"nothing has happened yet in the run of '{folder}': try again later")
    config = folder / "config.yaml"
    summary = folder / "summary.json"
    return RunRecord(
        name=folder.absolute().name,
        folder=str(folder.absolute()),
        events=events,
        metrics=tuple(read_lines(folder / "metrics.jsonl")),
        hosts=tuple(read_lines(folder / "hosts.jsonl")),
        config=read_yaml(config.read_text(encoding="utf-8")) or {} if config.is_file() else {},
        plans=tuple(_plans(folder)),
        summary=Summary.read(summary) if summary.is_file() else None,
    )


def _plans(folder: Path) -> list[EmbeddingPlan]:
    from kernels import EmbeddingPlan, SpecError

    numbered = sorted(
        (int(match[1]), file) for file in folder.iterdir() if (match := _PLAN.fullmatch(file.name))
    )
    plans = []
    for _, file in numbered:
        try:
            plans.append(EmbeddingPlan.from_json(file.read_text(encoding="utf-8")))
        except SpecError:
            continue
    return plans
