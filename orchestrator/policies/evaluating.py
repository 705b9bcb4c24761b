"""When to evaluate, which evaluations are best, and when they end the run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from orchestrator.config import EarlyStoppingConfig
from orchestrator.errors import ConfigError
from orchestrator.schedule import Schedule

__all__ = ["best_steps", "evaluation_due", "stop_early"]

type Evaluations = Mapping[int, Mapping[str, float]]
"""Figures of each evaluation by step."""


def evaluation_due(schedule: Schedule, step: int) -> bool:
    """Whether the state at ``step`` is to be evaluated.

    That is at ends of epochs and between them as the schedule says, and at the end of the run.
    """
    if step <= 0 or not schedule.evaluates:
        return False
    if step >= schedule.total_steps:
        return True
    if schedule.evaluate_every_steps and step % schedule.evaluate_every_steps == 0:
        return True
    epochs, rest = divmod(step, schedule.steps_per_epoch)
    return rest == 0 and schedule.evaluate_every > 0 and epochs % schedule.evaluate_every == 0


def best_steps(
    evaluations: Evaluations, metric: str, mode: Literal["max", "min"], count: int
) -> tuple[int, ...]:
    """The steps of the best evaluations, the best first.

    Of equal ones the earlier is better; one whose figure is NaN is never among them.

    Args:
        evaluations: Figures by step.
        metric: Name of the figure.
        mode: Whether the largest or the smallest is best.
        count: Most steps to return.

    Raises:
        ConfigError: An evaluation has no such figure.
    """
    sign = -1.0 if mode == "max" else 1.0
    figures = {
        step: sign * _figure(all_figures, metric, "checkpoints.best_metric")
        for step, all_figures in evaluations.items()
    }
    known = [step for step, figure in figures.items() if not math.isnan(figure)]
    return tuple(sorted(known, key=lambda step: (figures[step], step))[:count])


def stop_early(evaluations: Evaluations, settings: EarlyStoppingConfig) -> bool:
    """Whether the newest evaluations have brought nothing better for too long.

    Evaluations are taken in the order of their steps. One is better if it exceeds the best before
    it by more than ``min_delta``; the first whose figure is a number always is, NaN never.

    Raises:
        ConfigError: An evaluation has no such figure.
    """
    if not settings.patience:
        return False
    sign = 1.0 if settings.mode == "max" else -1.0
    best, waited = -math.inf, 0
    for step in sorted(evaluations):
        name = "evaluation.early_stopping.metric"
        figure = sign * _figure(evaluations[step], settings.metric, name)
        if figure > best + settings.min_delta:
            best, waited = figure, 0
        else:
            waited += 1
    return waited >= settings.patience


def _figure(figures: Mapping[str, float], metric: str, setting: str) -> float:
    if metric not in figures:
        raise ConfigError(
            f"{setting} is '{metric}', but an evaluation has no such figure; it has "
            f"{', '.join(sorted(figures))}"
        )
    return figures[metric]
