"""The small files that the driver keeps in the run's folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from orchestrator import events
from orchestrator.events import Event, as_record
from orchestrator.json_lines import open_for_append, read_lines, replace_text, to_json

__all__ = ["EventFile", "MetricsFile", "PlanFiles", "StackFiles"]


class EventFile:
    """Appends every event to ``events.jsonl``, at once."""

    def __init__(self, path: Path) -> None:
        self._file = open_for_append(path)

    def __call__(self, time: float, event: Event) -> None:
        """See ``orchestrator.events.Sink``."""
        self._file.write(to_json(as_record(time, event)) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class MetricsFile:
    """Keeps ``metrics.jsonl``: each step of the present state once, and each evaluation.

    A training line is ``{"step", "epoch", "loss"}``; the line of an evaluation with the state after
    ``step`` steps is ``{"step", "epoch", "split", "metrics"}``. When a checkpoint is restored, the
    lines beyond its step are taken out.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = open_for_append(path)

    def __call__(self, time: float, event: Event) -> None:
        """See ``orchestrator.events.Sink``."""
        match event:
            case events.LeaseDone():
                for step, loss in enumerate(event.losses, event.first):
                    epoch = step // event.steps_per_epoch
                    self._write({"step": step, "epoch": epoch, "loss": loss})
                self._file.flush()
            case events.Evaluated():
                place = {"step": event.step, "epoch": event.epoch, "split": event.split}
                self._write(place | {"metrics": dict(event.metrics)})
                self._file.flush()
            case events.Restored(step=step):
                self._rewind(step)
            case _:
                pass

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, record: Mapping[str, object]) -> None:
        self._file.write(to_json(record) + "\n")

    def _rewind(self, step: int) -> None:
        kept, dropped = [], False
        for record in read_lines(self._path):
            # A step's own line stands for the step done; an evaluation's for the steps before it.
            if record["step"] < step or ("split" in record and record["step"] == step):
                kept.append(to_json(record) + "\n")
            else:
                dropped = True
        if dropped:
            self._file.close()
            replace_text(self._path, kept)
            self._file = open_for_append(self._path)


class PlanFiles:
    """Writes every plan to ``plan-<version>.json``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, time: float, event: Event) -> None:
        """See ``orchestrator.events.Sink``."""
        if isinstance(event, events.PlanMade):
            replace_text(self._folder / f"plan-{event.version}.json", [event.plan, "\n"])


class StackFiles:
    """Writes the stacks of hosts that hang to ``stacks/launch-<n>-host-<rank>.txt``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "stacks"

    def __call__(self, time: float, event: Event) -> None:
        """See ``orchestrator.events.Sink``."""
        if isinstance(event, events.StacksDumped):
            self._folder.mkdir(exist_ok=True)
            path = self._folder / f"launch-{event.launch}-host-{event.rank}.txt"
            path.write_text(event.text, encoding="utf-8")
