"""The page of several runs, side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.goodput import KINDS
from orchestrator.report.charts import COLOURS, LineChart, line_chart
from orchestrator.report.curves import (
    Curve,
    evaluation_curves,
    loss_curve,
    recent_loss,
    speed_curve,
)
from orchestrator.report.page import whole_page
from orchestrator.report.reading import RunRecord
from orchestrator.report.sections import account, figure_note, figure_title, mean_speed
from orchestrator.report.settings_section import flat, shown_value
from orchestrator.report.style import KIND_COLOURS
from orchestrator.report.timeline import timeline_of
from orchestrator.report.words import data_table, duration, element, figure, number, percent, text

__all__ = ["comparison_page"]

_LOWER_IS_BETTER = {"loss", "normalised_entropy"}
_NEITHER = {"calibration", "examples"}
"""Figures of which neither more nor less is better."""


def comparison_page(
    runs: Sequence[RunRecord], title: str | None = None, before: Sequence[tuple[str, str]] = ()
) -> str:
    """Several runs as one HTML page that needs no other file.

    Args:
        runs: The runs; the others are measured against the first.
        title: Of the page; unset, it says how many runs there are.
        before: Title and HTML of sections that come before those of the comparison.
    """
    names = _names(runs)
    sections = [
        *before,
        ("Results", _results(runs, names)),
        ("Curves", _curves(runs, names)),
        ("Time", _time(runs, names)),
        ("Settings", _settings(runs, names)),
    ]
    listed = "".join(
        element(
            "li",
            _swatch(place)
            + element("b", text(name))
            + element("span", run.status, class_=f"badge {run.status.split()[0]}")
            + element("small", f"<br>{text(run.folder)}"),
        )
        for place, (run, name) in enumerate(zip(runs, names, strict=True))
    )
    heading = text(title) if title else f"{len(runs)} runs compared"
    top = element("h1", heading) + element("ul", listed, class_="runs")
    return whole_page(f"{title or ', '.join(names)} – emberay", top, sections)


def _names(runs: Sequence[RunRecord]) -> list[str]:
    """The folders' names, with their parents where two are the same."""
    names = [run.name for run in runs]
    if len(set(names)) == len(names):
        return names
    longer = ["/".join(run.folder.rsplit("/", 2)[-2:]) for run in runs]
    return longer if len(set(longer)) == len(longer) else [run.folder for run in runs]


def _swatch(place: int) -> str:
    return f'<i style="background:var(--line-{place % COLOURS})"></i>'


@dataclass(frozen=True)
class _Row:
    """A line of the table of results."""

    name: str
    values: Sequence[float | None]
    words: Callable[[float | None], str]
    better: int = 0
    """1 if more is better, -1 if less is."""


def _results(runs: Sequence[RunRecord], names: Sequence[str]) -> str:
    rows = [
        (text(row.name), *(_cell(row, place) for place in range(len(runs)))) for row in _rows(runs)
    ]
    words = (
        f"Differences are to {names[0]}. One run of each says little about small ones: repeat them "
        "with other seeds to see how far runs of the same settings lie apart."
    )
    return data_table(("", *names), rows) + element("p", text(words), class_="soft")


def _rows(runs: Sequence[RunRecord]) -> list[_Row]:
    curves = [evaluation_curves(run) for run in runs]
    figures = list(
        dict.fromkeys((name, split) for run in curves for name in run for split in run[name])
    )
    rows = [
        _Row(
            f"{split} {figure_title(name)}",
            [run[name][split].last if split in run.get(name, {}) else None for run in curves],
            number if name == "examples" else figure,
            0 if name in _NEITHER else -1 if name in _LOWER_IS_BETTER else 1,
        )
        for name, split in figures
    ]
    spent = [account(run, timeline_of(run.events)) for run in runs]
    total = [sum(seconds.values()) for seconds in spent]
    recent = [recent_loss(run) for run in runs]
    rows.append(_Row("training loss, last tenth of steps", recent, figure, -1))
    rows.append(_Row("steps done", [run.steps for run in runs], _count))
    rows.append(_Row("examples/s", [mean_speed(run) for run in runs], _rounded, 1))
    rows.append(_Row("time", total, _duration, -1))
    goodput = [seconds["training"] / (sum(seconds.values()) or 1.0) for seconds in spent]
    rows.append(_Row("goodput", goodput, _percent, 1))
    rows.append(_Row("restarts", [len(run.of("recovering")) for run in runs], _count, -1))
    hosts = [run.started.get("hosts") for run in runs]
    rows.append(_Row("hosts", hosts, _count))
    planned = [run.plans[-1].memory.total if run.plans else None for run in runs]
    if any(planned):
        rows.append(_Row("planned MiB on each device", [_mib(p) for p in planned], number, -1))
    return rows


def _count(value: float | None) -> str:
    return number(value)


def _mib(count: int | None) -> float | None:
    return None if count is None else count / 2**20


def _rounded(value: float | None) -> str:
    return number(None if value is None else round(value))


def _duration(value: float | None) -> str:
    return "–" if value is None else duration(value)


def _percent(value: float | None) -> str:
    return "–" if value is None else percent(value)


def _cell(row: _Row, place: int) -> str:
    """A value, and below it the difference to that of the first run."""
    value, first = row.values[place], row.values[0]
    shown = text(row.words(value))
    if place == 0 or value is None or first is None or value == first:
        return shown
    change = value - first
    if row.words is _percent:
        words = f"{100 * change:+.1f} points"
    elif row.words is figure:
        words = f"{change:+.4f}"
    elif row.words is _count:
        words = f"{change:+,.0f}"
    else:
        words = f"{100 * change / first:+.1f} %" if first else f"{change:+,.0f}"
    side = change * row.better
    kind = None if side == 0 else "better" if side > 0 else "worse"
    return shown + element("small", words, class_=kind)


def _curves(runs: Sequence[RunRecord], names: Sequence[str]) -> str:
    """Every curve of all runs: over steps, or over examples where batches differ in size."""
    sizes = [run.config.get("batch_size", 1) for run in runs]
    by_steps = len(set(sizes)) == 1
    across = "steps done" if by_steps else "examples trained on (steps × batch size)"

    def together(title: str, curves: Sequence[Curve], note: str, **more: Any) -> LineChart:
        named = [
            Curve(name, [(x * (1 if by_steps else size), y) for x, y in curve.points])
            for name, size, curve in zip(names, sizes, curves, strict=True)
        ]
        return LineChart(title, named, note=note, across=across, **more)

    losses = [loss_curve(run) for run in runs]
    charts = [together("training loss", losses, "mean of neighbouring steps")]
    evaluated = [evaluation_curves(run) for run in runs]
    for name in dict.fromkeys(name for run in evaluated for name in run):
        splits = dict.fromkeys(split for run in evaluated for split in run.get(name, {}))
        for split in splits if name != "examples" else ():
            found = [run.get(name, {}).get(split, Curve(split, ())) for run in evaluated]
            title = f"{split} {figure_title(name)}"
            charts.append(together(title, found, figure_note(name), dots=True))
    speeds = [speed_curve(run) for run in runs]
    note = "of every lease, compiling left out"
    charts.append(together("examples per second", speeds, note, words=number, zero=True))
    return element("div", "".join(line_chart(chart) for chart in charts), class_="charts")


def _time(runs: Sequence[RunRecord], names: Sequence[str]) -> str:
    """A bar for each run, as long as it took, and the seconds of each kind."""
    seconds = [account(run, timeline_of(run.events)) for run in runs]
    longest = max((sum(one.values()) for one in seconds), default=0.0) or 1.0
    bars = [
        (
            _swatch(place) + text(name),
            _bar(one, longest),
            duration(sum(one.values())),
        )
        for place, (name, one) in enumerate(zip(names, seconds, strict=True))
    ]
    kinds = [kind for kind in KINDS if any(one[kind] > 0 for one in seconds)]
    rows = [
        (
            f'<i style="background:var(--kind-{kind})"></i>{kind.replace("_", " ")}',
            *(duration(one[kind]) if one[kind] else "–" for one in seconds),
        )
        for kind in sorted(kinds, key=lambda kind: -max(one[kind] for one in seconds))
    ]
    return data_table(("", "", "time"), bars, words=2, klass="wide") + data_table(
        ("spent on", *names), rows
    )


def _bar(seconds: Mapping[str, float], longest: float) -> str:
    parts = "".join(
        element(
            "span",
            "",
            style=f"width:{100 * seconds[kind] / longest:.2f}%;background:var(--kind-{kind})",
            title=f"{kind.replace('_', ' ')} {duration(seconds[kind])}",
        )
        for kind in KIND_COLOURS
        if seconds[kind] > 0
    )
    return element("div", parts, class_="parts")


def _settings(runs: Sequence[RunRecord], names: Sequence[str]) -> str:
    """Keys of the configurations, and versions, that are not the same in all runs."""
    given = [_told(run) for run in runs]
    keys = dict.fromkeys(key for values in given for key in values)
    rows = [
        (element("code", text(key)), *(shown_value(values.get(key)) for values in given))
        for key in keys
        if any(values.get(key) != given[0].get(key) for values in given[1:])
    ]
    if not rows:
        return element("p", "Settings and versions are the same.", class_="soft")
    same = element("p", f"{len(keys) - len(rows)} others are the same.", class_="soft")
    return data_table(("what differs", *names), rows, words=1 + len(runs)) + same


def _told(run: RunRecord) -> dict[str, object]:
    """Configuration and environment, flat; not the command and its folder, which always differ."""
    environment = run.started.get("environment", {})
    told = {f"environment: {name}": value for name, value in environment.items()}
    settings = {key: value for key, value in flat(run.config).items() if value != {}}
    return settings | {
        name: value
        for name, value in told.items()
        if name not in ("environment: command", "environment: folder")
    }
