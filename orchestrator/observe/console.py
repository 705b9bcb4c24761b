"""What a person sees: a live view on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from time import monotonic

from rich.console import Console as RichConsole
from rich.markup import escape
from rich.table import Table

from orchestrator import events
from orchestrator.events import Event
from orchestrator.goodput import Ledger
from orchestrator.observe.live import LiveView
from orchestrator.observe.moment import RunNow, Watched
from orchestrator.observe.notes import Notes
from orchestrator.summary import Summary

__all__ = ["Console", "describe", "summary_table"]


class Console:
    """Tells the run's events as they happen.

    Args:
        console: Where to; standard output by default.
        line_seconds: Time between two lines of progress where there is no terminal.
    """

    def __init__(self, console: RichConsole | None = None, line_seconds: float = 4.0) -> None:
        self._console = console or RichConsole()
        self._line_seconds = line_seconds
        self._last_line = -math.inf
        self._total = 0
        self._hosts = 0
        self._notes = Notes()
        self._live: LiveView | None = None

    def __call__(self, time: float, event: Event) -> None:
        """See ``orchestrator.events.Sink``."""
        self._notes.take(event, monotonic())
        match event:
            case events.RunStarted():
                self._total, self._hosts = event.total_steps, event.hosts
                if self._live is None and self._console.is_terminal:
                    self._live = LiveView(self._console)
                self._say(describe(event))
            case events.LeaseDone(losses=losses) if losses:
                self._progress(time, event)
            case events.Finished() | events.Interrupted() | events.Failed():
                self.close()
            case _:
                self._say(describe(event))

    def look(self, controller: Watched, ledger: Ledger) -> None:
        """Draw the live view anew, if there is one and it is time."""
        now = monotonic()
        if self._live is not None and self._live.due(now):
            run = RunNow.of(controller, ledger.seconds(now), now, self._notes.waited)
            self._live.draw(self._notes.moment(run, now), now)

    def close(self) -> None:
        """Take the live view away. May be called twice."""
        if self._live is not None:
            self._live.close()
            self._live = None

    def _progress(self, time: float, event: events.LeaseDone) -> None:
        if self._live is not None:
            return
        seconds = event.elapsed - event.seconds.get("compiling", 0.0)
        speed = f"{event.examples / seconds:,.0f} examples/s" if seconds > 0 else ""
        if time - self._last_line >= self._line_seconds or event.last == self._total:
            self._last_line = time
            figures = f"loss {event.loss:.4f}  {speed}  {self._hosts} hosts"
            self._say(f"step {event.last}/{self._total}  {figures}")

    def _say(self, text: str | None) -> None:
        if text:
            self._console.print(escape(text), highlight=False, soft_wrap=True)


def describe(event: Event) -> str | None:
    """One line for an event that a person wants to know of, else None."""
    match event:
        case events.RunStarted():
            return (
                f"{event.program}: {event.total_steps} steps, {event.steps_per_epoch} an epoch, on "
                f"{event.hosts} hosts with {event.devices} devices; run folder {event.run_folder}"
            )
        case events.Launching(launch=launch, hosts=hosts):
            return f"starting {hosts} hosts" + (f" (launch {launch})" if launch else "")
        case events.Surveyed(rows=rows):
            return f"surveyed {rows:,} training rows"
        case events.Replanned():
            why = {
                "refused": "a batch did not fit",
                "squeezed": "batches took minibatches or lost ids",
            }[event.reason]
            return (
                f"step {event.step}: {why}; raising {event.limit} of table stack {event.stack} "
                f"from {event.allowed} to hold {event.observed}: plan {event.version}, compiled "
                "anew"
            )
        case events.Squeezed(dropped=dropped) if dropped:
            lost = ", ".join(f"{ids:,} of table stack {name}" for name, ids in dropped.items())
            return (
                f"warning: steps {event.first} to {event.last - 1} of {event.split}: ids that "
                f"found no room were left out: {lost}"
            )
        case events.Squeezed():
            return (
                f"steps {event.first} to {event.last - 1} of {event.split}: {event.steps} batches "
                f"exceeded the limits and took up to {event.minibatches} minibatches"
            )
        case events.CheckpointPostponed(step=step, reason=reason):
            return f"no room for a checkpoint of step {step}: {reason}"
        case events.EvaluationCut(step=step):
            return f"left the evaluation at step {step} before its end"
        case events.Restored(step=0):
            return "initialised tables and model"
        case events.Restored(step=step):
            return f"restored the checkpoint of step {step}"
        case events.Evaluated():
            shown = ("auc", "normalised_entropy", "loss", *_ranking(event.metrics))
            figures = ", ".join(
                f"{name.replace('_', ' ')} {event.metrics[name]:.4f}"
                for name in shown
                if name in event.metrics
            )
            return f"step {event.step}: {event.split} {figures}"
        case events.StepsUnrecorded(first=first, last=last):
            return (
                f"warning: the losses of the steps {first} to {last - 1} were never recorded, but "
                f"there is no checkpoint before step {last} to run them again from"
            )
        case events.CheckpointSkipped(step=step, reason=reason):
            return f"warning: the checkpoint of step {step} is skipped and set aside: {reason}"
        case events.Recovering():
            return f"{event.reason}; starting anew from the last checkpoint"
        case events.StepSkipped(step=step, reason=reason):
            return f"warning: step {step} is left without effect: {reason}"
        case events.HandingOver():
            why = {"preempted": "hosts must leave", "room": "there is room for more hosts"}
            reason = why.get(event.reason, event.reason)
            return f"{reason}: saving, to go on with {event.hosts} hosts"
        case events.Shrunk():
            return f"{len(event.missing)} hosts did not start; going on with {event.hosts}"
        case events.Diagnosed():
            where = f" on {', '.join(event.nodes)}" if event.nodes else ""
            return f"warning: {event.check}{where}: {event.what}; {event.remedy}"
        case events.StopRequested():
            return "saving and leaving; press Ctrl-C again to leave at once"
        case _:
            return None


def summary_table(summary: Summary) -> Table:
    """The table at the end of a run."""
    table = Table(title=f"{summary.program}: {summary.status}", show_header=False)
    test, train = summary.metrics.get("test", {}), summary.metrics.get("train", {})
    best = summary.metrics.get("best_possible", {})
    report = Path(summary.run_folder) / "report.html"
    rows = [
        ("steps", f"{summary.steps:,} ({summary.epochs} epochs, {summary.examples:,} examples)"),
        ("test AUC", _figure(test.get("auc"))),
        *([("best possible AUC", _best(best))] if best else []),
        ("test normalised entropy", _figure(test.get("normalised_entropy"))),
        ("test loss", _figure(test.get("loss"))),
        *((f"test {name}", _figure(test[name])) for name in _ranking(test)),
        ("train loss, last epoch", _figure(train.get("loss"))),
        ("examples/s", f"{summary.examples_per_second:,.0f}"),
        ("goodput", f"{summary.goodput_share:.1%} of {summary.seconds:.1f} s"),
        ("", _parts(summary.goodput)),
        *([("data, slowest stage", _stages(summary))] if summary.slowest_stage else []),
        *([("quarantined rows", f"{summary.quarantined:,}")] if summary.quarantined else []),
        ("restarts", str(summary.restarts)),
        ("hosts × devices", f"{summary.hosts} × {summary.devices // summary.hosts}"),
        ("run folder", summary.run_folder),
        *([("report", str(report))] if report.is_file() else []),
    ]
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, escape(value))
    return table


def _ranking(figures: Mapping[str, float | None]) -> list[str]:
    """Names of the figures at cutoffs, as ``recall@10``, in the order they came in."""
    return [name for name in figures if "@" in name]


def _figure(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.4f}"


def _best(best: Mapping[str, float | None]) -> str:
    return f"{_figure(best.get('auc'))} ± {_figure(best.get('auc_error'))}"


def _stages(summary: Summary) -> str:
    """The slowest stage of the data pipeline, and what each was busy for."""
    waited = summary.goodput.get("waiting_for_data", 0.0)
    told = f"{summary.slowest_stage}; training waited {waited:.1f} s"
    parts = _parts(summary.stages)
    return f"{told} (busy: {parts})" if parts else told


def _parts(seconds_by_kind: Mapping[str, float]) -> str:
    parts = sorted(seconds_by_kind.items(), key=lambda item: -item[1])
    return ", ".join(
        f"{kind.replace('_', ' ')} {seconds:.1f}" for kind, seconds in parts if seconds >= 0.05
    )
