"""The live view: a few lines at the bottom of the terminal, drawn anew four times a second."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.observe.moment import HostNow, Moment
from orchestrator.report.words import duration, number, percent, size

__all__ = ["LiveView", "drawn", "sparkline"]

_INTERVAL = 0.25
"""Least seconds between two drawings."""
_MOST_HOSTS = 8
"""Hosts that are shown one by one; of more, only those that do something else than most."""
_GAP = 3
"""Blanks between two columns."""
_BARS = "▁▂▃▄▅▆▇█"
_NEWEST = 12
"""Leases whose losses are drawn."""
_SILENT = 3.0
"""Seconds without a word of a host after which that is shown."""


class LiveView:
    """Draws the newest moment below what else is printed.

    Args:
        console: The terminal.
    """

    def __init__(self, console: RichConsole) -> None:
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._live.start()
        self._drawn_at = -math.inf

    def due(self, now: float) -> bool:
        """Whether it is time to draw again."""
        return now - self._drawn_at >= _INTERVAL

    def draw(self, moment: Moment, now: float) -> None:
        """Show a moment."""
        self._drawn_at = now
        self._live.update(drawn(moment), refresh=True)

    def close(self) -> None:
        """Take it away; may be called twice."""
        self._live.stop()


def drawn(moment: Moment) -> RenderableType:
    """A moment, for a terminal."""
    return Group(Text(""), _head(moment), _figures(moment), _hosts(moment.run.hosts))


def _head(moment: Moment) -> Table:
    run = moment.run
    line = Table.grid(padding=(0, 1), expand=True)
    line.add_column(no_wrap=True)
    line.add_column(ratio=1, min_width=8)
    line.add_column(no_wrap=True, justify="right")
    where = Text.assemble(
        (moment.program, "bold"),
        f" {run.doing}  step ",
        (f"{run.step:,}", "bold"),
        f"/{run.total_steps:,}",
    )
    times = [duration(math.floor(moment.elapsed))]
    if moment.left is not None:
        times.append(f"about {duration(math.ceil(moment.left))} left")
    bar = ProgressBar(total=run.total_steps or 1, completed=run.step, complete_style="green")
    line.add_row(where, bar, ", ".join(times))
    return line


@dataclass(frozen=True)
class _Figures:
    """Figures in as many columns as the terminal has room for."""

    figures: Sequence[Text]

    def __rich_console__(self, console: RichConsole, options: ConsoleOptions) -> RenderResult:
        for columns in range(3, 0, -1):
            widths = [
                max(figure.cell_len for figure in self.figures[place::columns])
                for place in range(columns)
            ]
            if columns == 1 or sum(widths) + _GAP * (columns - 1) <= options.max_width:
                break
        table = Table.grid(padding=(0, _GAP))
        for _ in range(columns):
            table.add_column(no_wrap=True)
        for first in range(0, len(self.figures), columns):
            table.add_row(*self.figures[first : first + columns])
        yield table


def _figures(moment: Moment) -> _Figures:
    figures = [
        _loss(moment),
        _evaluation(moment),
        _speed(moment),
        _waiting(moment),
        _goodput(moment),
        _save(moment),
    ]
    if moment.restarts:
        words = f"{moment.restarts} restart{'s' * (moment.restarts > 1)}"
        figures.append(Text(words, "yellow"))
    return _Figures(figures)


def _loss(moment: Moment) -> Text:
    if moment.loss is None:
        return _dim("loss", "–")
    return _dim("loss", f"{moment.loss:.4f} ").append(sparkline(moment.losses[-_NEWEST:]), "cyan")


def _evaluation(moment: Moment) -> Text:
    if moment.evaluated is None:
        return _dim("AUC", "not evaluated yet")
    step, split, figures = moment.evaluated
    name = "auc" if "auc" in figures else next(iter(figures), "")
    shown = f"{split} AUC" if name == "auc" else f"{split} {name.replace('_', ' ')}"
    value = figures.get(name)
    words = "–" if value is None else f"{value:.4f}"
    return _dim(shown, words).append(f" at step {step:,}", "dim")


def _speed(moment: Moment) -> Text:
    if moment.speed is None:
        return _dim("examples/s", "–")
    told = _dim("examples/s", number(round(moment.speed)))
    if moment.minute is not None:
        told.append(f" (last minute {number(round(moment.minute))})", "dim")
    return told


def _waiting(moment: Moment) -> Text:
    if moment.waited is None:
        return _dim("waiting for data", "–")
    style = "yellow" if moment.waited > 0.1 else ""
    return _dim("waiting for data", percent(moment.waited), style)


def _goodput(moment: Moment) -> Text:
    seconds = moment.run.goodput
    total = sum(seconds.values())
    told = _dim("goodput", percent(seconds.get("training", 0.0) / total) if total else "–")
    lost = {kind: value for kind, value in seconds.items() if kind != "training" and value >= 1.0}
    if lost:
        most = max(lost, key=lambda kind: lost[kind])
        told.append(f" most else: {most.replace('_', ' ')} {duration(lost[most])}", "dim")
    return told


def _save(moment: Moment) -> Text:
    run = moment.run
    if run.next_save is None:
        told = _dim("next checkpoint", "none")
    else:
        told = _dim("next checkpoint", f"step {run.next_save:,}")
        if moment.to_save is not None:
            told.append(f" in {duration(math.ceil(moment.to_save))}", "dim")
    return told


def _hosts(hosts: Sequence[HostNow]) -> RenderableType:
    """Every host, or what most do and the others one by one."""
    if not hosts:
        return Text("")
    shown, said = hosts, None
    if len(hosts) > _MOST_HOSTS:
        phases = Counter(host.phase for host in hosts)
        said = f"{len(hosts):,} hosts: " + ", ".join(
            f"{count:,} {_plain(phase)}" for phase, count in phases.most_common()
        )
        usual = phases.most_common(1)[0][0]
        odd = [host for host in hosts if host.phase != usual or host.silent > _SILENT]
        shown = sorted(odd, key=lambda host: -host.phase_seconds)[:_MOST_HOSTS]
    table = Table.grid(padding=(0, _GAP))
    for name in ("host", "phase", "for", "step", "waiting for data", "memory"):
        right = name in ("for", "step", "waiting for data", "memory")
        table.add_column(no_wrap=True, justify="right" if right else "left")
    if shown:
        table.add_row(
            *(Text(name, "dim") for name in ("host", "phase", "for", "step", "waited", "memory"))
        )
    for host in shown:
        table.add_row(
            str(host.rank),
            _phase(host),
            duration(math.floor(host.phase_seconds)),
            "–" if host.step is None else f"{host.step:,}",
            "–" if host.waited is None else percent(host.waited),
            size(host.memory) if host.memory else "–",
        )
    return table if said is None else Group(Text(said), table)


def _phase(host: HostNow) -> Text:
    told = Text(_plain(host.phase), "red" if host.phase in ("dead", "leaving") else "")
    if host.silent > _SILENT:
        told.append(f", silent for {duration(math.floor(host.silent))}", "yellow")
    return told


def sparkline(values: Sequence[float]) -> str:
    """Values as a line of bars, from the least to the largest.

    Example:
        >>> sparkline([3.0, 2.0, 1.0])
        '█▅▁'
    """
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < 2:
        return ""
    low, high = min(finite), max(finite)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((value - low) * scale)] for value in finite)


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _dim(name: str, value: str, style: str = "bold") -> Text:
    return Text.assemble((f"{name} ", "dim"), (value, style or "bold"))
