"""Sections of a run's report: result, quality, time. Each is HTML out of a ``RunRecord``."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping

from orchestrator.goodput import KINDS
from orchestrator.report.charts import BandMark, LineChart, band_chart, line_chart
from orchestrator.report.curves import evaluation_curves, loss_curve, speed_curve
from orchestrator.report.happenings import FAULTS, happenings, in_words
from orchestrator.report.reading import RunRecord
from orchestrator.report.style import KIND_COLOURS
from orchestrator.report.timeline import Timeline, buckets
from orchestrator.report.words import (
    data_table,
    duration,
    element,
    figure,
    number,
    percent,
    text,
)

__all__ = [
    "KIND_WORDS",
    "account",
    "figure_note",
    "figure_title",
    "head",
    "mean_speed",
    "quality",
    "time_spent",
]

_BUCKETS = 200
_MOST_MARKS = 40
_MOST_HAPPENINGS = 200

KIND_WORDS: Mapping[str, str] = {
    "launching": "processes start and join one mesh",
    "planning": "input is checked, a sample read, plans made and prepared",
    "restoring": "a checkpoint is loaded, or tables and model are initialised",
    "compiling": "the train step is compiled, or taken from the cache",
    "training": "new steps",
    "waiting_for_data": "the next batch is not ready",
    "saving": "checkpoints start, and the last one is waited for",
    "evaluating": "the test split, with compiling for it",
    "coordinating": "between two leases: driver and hosts talk",
    "recovering": "lost with a host, until its end and the next launch",
    "repeated_work": "steps that had been done before",
}
"""What each kind of time is spent on."""

_TITLES = {
    "auc": "AUC",
    "normalised_entropy": "normalised entropy",
    "loss": "loss",
    "calibration": "calibration",
    "accuracy": "accuracy",
}
_NOTES = {
    "auc": "probability that a positive is ranked above a negative; higher is better",
    "normalised_entropy": "loss ÷ entropy of the label's share; lower is better, 1 knows nothing",
    "calibration": "mean prediction ÷ share of positives; 1 is right",
    "accuracy": "share of predictions on the right side of one half",
    "loss": "lower is better",
}


def figure_title(name: str) -> str:
    """Name of a figure of an evaluation, for people."""
    return _TITLES.get(name, name.replace("_", " "))


def figure_note(name: str) -> str:
    """What a figure of an evaluation means."""
    return _NOTES.get(name, "")


def head(run: RunRecord, timeline: Timeline) -> str:
    """Name, how it ended, and the figures one looks for first."""
    started = run.started
    badge, shown = run.status, run.status
    if run.status == "not ended":
        badge, shown = "running", "running, or killed"
    program = text(started.get("program", run.name))
    title = element("h1", program + element("span", shown, class_=f"badge {badge}"))
    begun = time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(run.events[0]["time"]))
    newest = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run.events[-1]["time"]))
    place = f"{text(run.folder)}<br>begun {begun}, newest event {newest}"
    if timeline.drivers > 1:
        place += f", {timeline.drivers} drivers one after the other"
    tiles = "".join(
        element("div", element("b", text(value)) + element("span", text(name)), class_="tile")
        for name, value in _tiles(run, timeline)
    )
    return (
        title
        + element("p", place, class_="soft")
        + _trouble(run)
        + element("div", tiles, class_="tiles")
    )


def _trouble(run: RunRecord) -> str:
    """Why it failed; what is missing if it has not ended."""
    failed = run.of("failed")
    if run.status == "failed" and failed:
        words = failed[-1].get("last_words", {})
        said = "".join(f"\nhost {rank}: {line}" for rank, line in list(words.items())[:16])
        error = f"{failed[-1]['error_type']} after {failed[-1]['steps']:,} steps: "
        return element("div", text(error + failed[-1]["error"] + said), class_="trouble")
    return ""


def _tiles(run: RunRecord, timeline: Timeline) -> Iterator[tuple[str, str]]:
    curves = evaluation_curves(run)
    seconds = account(run, timeline)
    total = sum(seconds.values())
    for name in ("auc", "normalised_entropy", "loss"):
        for split, curve in curves.get(name, {}).items():
            yield f"{split} {figure_title(name)}", figure(curve.last)
    loss = loss_curve(run).last
    if loss is not None and not curves:
        yield "training loss", figure(loss)
    total_steps = run.started.get("total_steps")
    yield (
        f"of {total_steps:,} steps done" if total_steps else "steps done",
        f"{run.steps:,}",
    )
    speed = mean_speed(run)
    if speed is not None:
        yield "examples/s", number(round(speed))
    if total > 0:
        whole = duration(total).replace(" ", "\u00a0")
        yield f"goodput of {whole}", percent(seconds["training"] / total)
    yield "restarts", str(len(run.of("recovering")))
    hosts, devices = _size(run)
    if hosts:
        yield "hosts × devices", f"{hosts} × {devices // hosts}"


def account(run: RunRecord, timeline: Timeline) -> Mapping[str, float]:
    """Seconds by kind: as the driver counted them, if it was the only one and has ended.

    That includes what it did after its last event.
    """
    if run.status == "not ended" or timeline.drivers != 1 or run.summary is None:
        return timeline.seconds
    return {kind: run.summary.goodput.get(kind, 0.0) for kind in KINDS}


def mean_speed(run: RunRecord) -> float | None:
    """Examples per second over all leases, repeated ones too, compiling left out."""
    leases = [lease for lease in run.of("lease_done") if lease["last"] > lease["first"]]
    seconds = sum(
        max(0.0, lease["elapsed"] - lease["seconds"].get("compiling", 0.0)) for lease in leases
    )
    return sum(lease["examples"] for lease in leases) / seconds if seconds > 0 else None


def _size(run: RunRecord) -> tuple[int, int]:
    """Hosts and devices of the newest mesh, else as they were asked for."""
    joined = run.of("mesh_joined")
    newest = joined[-1] if joined else run.started
    return newest.get("hosts", 0), newest.get("devices", 0)


def quality(run: RunRecord) -> str:
    """Curves of loss and of all figures of evaluations, and of speed."""
    curves = evaluation_curves(run)
    best = {} if run.summary is None else run.summary.metrics.get("best_possible", {})
    charts = [
        line_chart(
            LineChart(
                "loss",
                [loss_curve(run), *curves.get("loss", {}).values()],
                references=_best(best, "loss"),
                note="training: mean of neighbouring steps, before their update; shaded: their "
                "spread",
            )
        )
    ]
    for name, by_split in curves.items():
        if name in ("loss", "examples"):
            continue
        charts.append(
            line_chart(
                LineChart(
                    " ".join([*(by_split if len(by_split) == 1 else ()), figure_title(name)]),
                    list(by_split.values()),
                    colours=range(1, len(by_split) + 1),
                    references=_best(best, name),
                    dots=True,
                    note=figure_note(name),
                )
            )
        )
    speed = LineChart(
        "examples per second",
        [speed_curve(run)],
        colours=[2],
        words=number,
        zero=True,
        note="of every lease, compiling left out",
    )
    charts.append(line_chart(speed))
    drawn = "".join(charts)
    if not drawn:
        return element("p", "No step has been reported yet.", class_="soft")
    return element("div", drawn, class_="charts")


def _best(best: Mapping[str, float | None], name: str) -> list[tuple[float, str]]:
    value = best.get(name)
    known = value is not None and math.isfinite(value)
    return [(value, f"best possible {figure(value)}")] if known else []  # pyright: ignore


def time_spent(run: RunRecord, timeline: Timeline) -> str:
    """The band of time with its faults, the sums by kind, and what happened."""
    if timeline.end <= 0:
        return element("p", "Nothing has been reported yet.", class_="soft")
    kinds = tuple(KIND_COLOURS)
    told = happenings(timeline.marks)
    numbers = {id(mark): place + 1 for place, mark in enumerate(told)}
    faults = [mark for mark in told if mark.kind in FAULTS or mark.kind == "run_started"]
    marks = [
        BandMark(
            mark.at,
            str(numbers[id(mark)]) if len(faults) <= _MOST_MARKS else "",
            f"{duration(mark.at)}, step {mark.step:,}: {in_words(mark.event)}",
        )
        for mark in faults
    ]
    parts = buckets(timeline, min(_BUCKETS, max(1, int(timeline.end * 10))))
    band = band_chart("where the time went, over time", parts, kinds, timeline.end, marks, duration)
    seconds = account(run, timeline)
    total = sum(seconds.values())
    rows = [
        (
            f'<i style="background:var(--kind-{kind})"></i>{kind.replace("_", " ")}',
            text(KIND_WORDS[kind]),
            duration(seconds[kind]),
            percent(seconds[kind] / total),
        )
        for kind in sorted(KINDS, key=lambda kind: -seconds[kind])
        if seconds[kind] > 0
    ]
    table = data_table(("kind", "spent on", "time", "share"), rows, words=2)
    caption = "<b>share of every moment, stacked</b>"
    if marks:
        caption += "<small>dashed: what went wrong or changed, with its number below</small>"
    return element("figure", element("figcaption", caption) + band) + table + _what(told)


def _what(told: list) -> str:
    """The list of what happened."""
    if not told:
        return element("p", "Nothing went wrong.", class_="soft")
    rows = [
        (
            str(place + 1),
            element("span", duration(mark.at), class_="whole"),
            f"{mark.step:,}",
            text(in_words(mark.event)),
        )
        for place, mark in enumerate(told[:_MOST_HAPPENINGS])
    ]
    more = len(told) - len(rows)
    rest = f"<p class='soft'>… and {more:,} more in events.jsonl</p>" if more else ""
    return (
        element("h3", "What happened")
        + data_table(("", "after", "step", "what"), rows, words=4)
        + rest
    )
