"""Which trials are due, from what has ended so far: all at once, or rung by rung.

Successive halving: all settings train for a few steps; the better ones, one of ``factor``, go on
from their checkpoints to ``factor`` times as many, until few are left that train to the end. A rung
begins when the one before has ended. Source: Jamieson and Talwalkar, "Non-stochastic best arm
identification and hyperparameter optimization", 2016.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.experiment.settings import ExperimentSettings, HalvingConfig
from orchestrator.experiment.space import Task

__all__ = ["Outcome", "due", "entrants", "ranked", "rung_sizes", "rung_steps"]


@dataclass(frozen=True)
class Outcome:
    """How a trial came to the end of a rung.

    Attributes:
        status: Whether it finished.
        score: Its figure of the metric; None if it failed.
    """

    status: Literal["finished", "failed"]
    score: float | None = None


def rung_sizes(halving: HalvingConfig | None, settings: int) -> tuple[int, ...]:
    """Settings that enter each rung, if enough of them finish.

    Example:
        >>> rung_sizes(HalvingConfig(steps=100, factor=3), 20)
        (20, 6, 2, 1)
    """
    sizes = [settings]
    if halving is not None:
        while sizes[-1] > 1 and (halving.rungs is None or len(sizes) < halving.rungs):
            sizes.append(max(1, sizes[-1] // halving.factor))
    return tuple(sizes)


def rung_steps(halving: HalvingConfig | None, settings: int, rung: int) -> tuple[int, int] | None:
    """``max_steps`` of a rung and of the last one; None without halving."""
    if halving is None:
        return None
    last = len(rung_sizes(halving, settings)) - 1
    return halving.steps * halving.factor**rung, halving.steps * halving.factor**last


def ranked(scores: Mapping[int, Sequence[float | None]], *, larger_is_better: bool) -> list[int]:
    """Settings from the best to the worst; those without any score are left out.

    The mean over seeds decides. A setting of which a trial failed comes after all whole ones, the
    fewer failed the sooner, and of equal ones the earlier comes first.

    Args:
        scores: By setting, the score of each seed; None for a trial that failed.
        larger_is_better: Whether the largest score is the best.

    Example:
        >>> ranked({0: [0.7, 0.7], 1: [0.9, None], 2: [0.8, 0.6]}, larger_is_better=True)
        [0, 2, 1]
    """
    sign = -1.0 if larger_is_better else 1.0
    order: list[tuple[int, float, int]] = []
    for setting, found in scores.items():
        known = [score for score in found if score is not None and math.isfinite(score)]
        if known:
            order.append((len(found) - len(known), sign * statistics.mean(known), setting))
    return [setting for _, _, setting in sorted(order)]


def entrants(
    experiment: ExperimentSettings, settings: int, rung: int, outcomes: Mapping[Task, Outcome]
) -> list[int] | None:
    """The settings of a rung in order; None while the rung before has not ended.

    Args:
        experiment: The experiment.
        settings: How many settings it has.
        rung: The rung, from 0.
        outcomes: What has ended.
    """
    entering = list(range(settings))
    for below in range(rung):
        tasks = _tasks(experiment, entering, below, outcomes)
        if any(task not in outcomes for task in tasks):
            return None
        scores = {
            setting: [_score(outcomes, Task(below, setting, seed)) for seed in experiment.seeds]
            for setting in entering
        }
        best = ranked(scores, larger_is_better=experiment.larger_is_better)
        entering = sorted(best[: rung_sizes(experiment.halving, settings)[below + 1]])
    return entering


def due(
    experiment: ExperimentSettings, settings: int, outcomes: Mapping[Task, Outcome]
) -> list[Task]:
    """The trials that can be run now, in order; none when the experiment is at its end.

    A trial that failed in one rung is left out of the next, though its setting may go on.
    """
    for rung in range(len(rung_sizes(experiment.halving, settings))):
        entering = entrants(experiment, settings, rung, outcomes)
        if entering is None:
            return []
        tasks = _tasks(experiment, entering, rung, outcomes)
        left = [task for task in tasks if task not in outcomes]
        if left:
            return left
    return []


def _tasks(
    experiment: ExperimentSettings,
    entering: Sequence[int],
    rung: int,
    outcomes: Mapping[Task, Outcome],
) -> list[Task]:
    tasks = [Task(rung, setting, seed) for setting in entering for seed in experiment.seeds]
    if rung == 0:
        return tasks
    return [t for t in tasks if _score(outcomes, Task(rung - 1, t.setting, t.seed)) is not None]


def _score(outcomes: Mapping[Task, Outcome], task: Task) -> float | None:
    outcome = outcomes.get(task)
    return None if outcome is None or outcome.status == "failed" else outcome.score
