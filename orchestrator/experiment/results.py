"""What an experiment came to: every setting with mean and spread over its seeds, best first."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from orchestrator.experiment.page import experiment_page
from orchestrator.experiment.records import TrialRecord
from orchestrator.experiment.rungs import ranked
from orchestrator.experiment.settings import ExperimentSettings
from orchestrator.experiment.space import Setting, Task
from orchestrator.json_lines import replace_text, to_json

__all__ = ["Results", "SettingResult", "results_of"]


@dataclass(frozen=True)
class SettingResult:
    """A setting in the furthest rung that a trial of it came to the end of.

    Attributes:
        setting: The setting.
        rung: The rung; -1 if none of its trials has ended.
        trials: By seed, the newest record of its trial, which failed in an earlier rung if it is
            not of this one; None if there is none.
    """

    setting: Setting
    rung: int
    trials: Mapping[int, TrialRecord | None]

    @property
    def scores(self) -> list[float | None]:
        """The metric of every seed; None where it is not known."""
        return [
            trial.score if trial is not None and trial.task.rung == self.rung else None
            for trial in self.trials.values()
        ]

    @property
    def mean(self) -> float | None:
        """Over the seeds that are known."""
        return self.mean_of(lambda trial: trial.score)

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over those seeds; None for fewer than two."""
        known = [score for score in self.scores if score is not None]
        return statistics.stdev(known) if len(known) > 1 else None

    @property
    def finished(self) -> list[TrialRecord]:
        """The trials that finished in this rung."""
        there = [trial for trial in self.trials.values() if trial is not None]
        return [t for t in there if t.status == "finished" and t.task.rung == self.rung]

    def mean_of(self, figure: Callable[[TrialRecord], float | None]) -> float | None:
        """Mean of a figure over the trials that finished."""
        known = [value for trial in self.finished if (value := figure(trial)) is not None]
        return statistics.mean(known) if known else None


@dataclass(frozen=True)
class Results:
    """All that is known of an experiment.

    Attributes:
        experiment: Its settings.
        settings: Best first.
        interrupted: Whether trials are left to run.
        folder: The experiment's folder.
    """

    experiment: ExperimentSettings
    settings: Sequence[SettingResult]
    interrupted: bool
    folder: Path

    @property
    def trials(self) -> list[TrialRecord]:
        """The newest record of every trial that has ended, in the order of the settings."""
        return [t for one in self.settings for t in one.trials.values() if t is not None]

    @property
    def failed(self) -> int:
        """Trials that failed."""
        return sum(trial.status == "failed" for trial in self.trials)

    def table(self) -> Table:
        """For the terminal."""
        title = f"{self.experiment.name}: {'interrupted' if self.interrupted else 'finished'}"
        table = Table(title=title, box=box.SQUARE)
        header, rows = self.lines()
        for place, name in enumerate(header):
            text = place <= len(self.experiment.space) + 1
            table.add_column(name, justify="left" if text else "right", overflow="fold")
        for row in rows:
            table.add_row(*row)
        return table

    def lines(self) -> tuple[list[str], list[list[str]]]:
        """A header, and a line of words for each setting."""
        halving = self.experiment.halving is not None
        header = [
            "",
            "setting",
            *_short_names(self.experiment.space),
            self.experiment.metric,
            "seeds",
        ]
        header += [*(("rung",) if halving else ()), "steps", "examples/s", "time"]
        rows = []
        for place, one in enumerate(self.settings, 1):
            steps = one.mean_of(lambda trial: trial.steps)
            speed = one.mean_of(lambda trial: trial.examples_per_second)
            time = one.mean_of(lambda trial: trial.seconds)
            rows.append(
                [
                    str(place),
                    f"{one.setting.number:03d}",
                    *(str(value) for value in one.setting.shown.values()),
                    _with_spread(one),
                    f"{len(one.finished)} of {len(one.trials)}",
                    *((str(one.rung) if one.rung >= 0 else "–",) if halving else ()),
                    "–" if steps is None else f"{steps:,.0f}",
                    "–" if speed is None else f"{speed:,.0f}",
                    "–" if time is None else f"{time:,.1f} s",
                ]
            )
        return header, rows

    def write(self, folder: Path) -> None:
        """Write ``results.csv``, ``results.json`` and ``comparison.html``."""
        replace_text(folder / "results.csv", [self._csv()])
        replace_text(folder / "results.json", [to_json(self._values(), indent=2), "\n"])
        firsts = [
            folder / "trials" / finished[0].task.trial
            for one in self.settings
            if (finished := one.finished)
        ]
        failures = [(trial.task.trial, str(trial.error)) for trial in self.trials if trial.error]
        header, rows = self.lines()
        page = experiment_page(self.experiment.name, header, rows, failures, firsts)
        replace_text(folder / "comparison.html", [page])

    def _values(self) -> dict[str, Any]:
        return {
            "name": self.experiment.name,
            "metric": self.experiment.metric,
            "mode": "max" if self.experiment.larger_is_better else "min",
            "finished": not self.interrupted,
            "settings": [
                {
                    "setting": one.setting.number,
                    "values": one.setting.shown,
                    "rung": one.rung,
                    "mean": one.mean,
                    "standard_deviation": one.spread,
                    "scores": dict(zip(map(str, one.trials), one.scores, strict=True)),
                }
                for one in self.settings
            ],
            "trials": list(self._trials()),
        }

    def _trials(self) -> list[dict[str, Any]]:
        points = {one.setting.number: one.setting.shown for one in self.settings}
        return [
            {
                "trial": trial.task.trial,
                **points[trial.task.setting],
                "seed": trial.task.seed,
                "rung": trial.task.rung,
                "status": trial.status,
                "score": trial.score,
                "steps": trial.steps,
                "examples_per_second": trial.examples_per_second,
                "seconds": trial.seconds,
                **{
                    f"{split}.{name}": value
                    for split, figures in trial.metrics.items()
                    for name, value in figures.items()
                },
                "run_folder": str(self.folder / "trials" / trial.task.trial),
                "error": trial.error,
            }
            for trial in self.trials
        ]

    def _csv(self) -> str:
        rows = self._trials()
        columns = list(dict.fromkeys(key for row in rows for key in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            lists = {k: json.dumps(v) for k, v in row.items() if isinstance(v, list | dict)}
            writer.writerow(row | lists)
        return text.getvalue()


def results_of(
    experiment: ExperimentSettings,
    settings: Sequence[Setting],
    records: Mapping[Task, TrialRecord],
    folder: Path,
    *,
    interrupted: bool,
) -> Results:
    """The results: settings of the furthest rung first, in each the best first.

    Args:
        experiment: The experiment.
        settings: All of its settings.
        records: What has ended.
        folder: The experiment's folder.
        interrupted: Whether trials are left to run.
    """
    found = []
    for setting in settings:
        newest = dict[int, TrialRecord | None].fromkeys(experiment.seeds)
        for task in sorted(task for task in records if task.setting == setting.number):
            newest[task.seed] = records[task]
        rung = max((trial.task.rung for trial in newest.values() if trial), default=-1)
        found.append(SettingResult(setting, rung, newest))
    order: list[int] = []
    for rung in sorted({one.rung for one in found}, reverse=True):
        here = {one.setting.number: one.scores for one in found if one.rung == rung}
        best = ranked(here, larger_is_better=experiment.larger_is_better)
        order += [*best, *(number for number in here if number not in best)]
    by_number = {one.setting.number: one for one in found}
    return Results(experiment, [by_number[n] for n in order], interrupted, folder)


def _with_spread(one: SettingResult) -> str:
    if one.mean is None:
        return "–"
    spread = "" if one.spread is None else f" ± {_short(one.spread)}"
    return f"{_short(one.mean)}{spread}"


def _short_names(keys: Iterable[str]) -> list[str]:
    """Keys without the sections that they are in, where none is mistaken for another."""
    keys = list(keys)
    last = [key.rpartition(".")[2] for key in keys]
    return [short if last.count(short) == 1 else key for key, short in zip(keys, last, strict=True)]


def _short(value: float) -> str:
    size = abs(value)
    if 0 < size < 0.001:
        return f"{value:.2g}"
    return f"{value:.4f}" if size < 100 else f"{value:,.1f}"
