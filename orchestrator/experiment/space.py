"""From the space of an experiment to the settings that are tried, and to runs' configurations."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.config import RunConfig
from orchestrator.config_loading import load_config
from orchestrator.errors import ConfigError
from orchestrator.experiment.settings import ExperimentSettings, RangeConfig
from workers.redaction import Redactor

__all__ = ["Setting", "Task", "config_of", "settings_of"]

_MOST_SETTINGS = 1_000
_DRAWS_PER_SETTING = 100
"""Draws for each setting that is wanted, before a small space counts as used up."""


@dataclass(frozen=True)
class Setting:
    """One point of the space.

    Attributes:
        number: From 0, in the order they are tried.
        values: By key of a run's configuration, in the order of the experiment's file.
    """

    number: int
    values: Mapping[str, Any]

    @property
    def shown(self) -> Mapping[str, Any]:
        """The values without secrets, for what is shown or written down."""
        return Redactor().values(dict(self.values))

    def __str__(self) -> str:
        return ", ".join(f"{key}={value}" for key, value in self.shown.items())


@dataclass(frozen=True, order=True)
class Task:
    """A trial, which is a setting with a seed, to be brought to the end of a rung."""

    rung: int
    setting: int
    seed: int

    @property
    def trial(self) -> str:
        """Name of the trial and of its run's folder."""
        return f"{self.setting:03d}-seed{self.seed}"


def settings_of(experiment: ExperimentSettings) -> tuple[Setting, ...]:
    """The settings that are tried, all different, always the same for the same experiment.

    Raises:
        ConfigError: There are too many.
    """
    if experiment.search == "grid":
        count = math.prod(len(values) for values in _lists(experiment).values())
        if count > _MOST_SETTINGS:
            raise ConfigError(
                f"space has {count:,} combinations, more than {_MOST_SETTINGS:,}: leave out "
                "values, or draw some with search: random"
            )
        points: Iterator[dict[str, Any]] = _grid(experiment)
        wanted = count
    else:
        wanted = experiment.samples or 1
        if wanted > _MOST_SETTINGS:
            raise ConfigError(f"samples is {wanted:,}, but {_MOST_SETTINGS:,} is the most")
        points = itertools.islice(_draws(experiment), wanted * _DRAWS_PER_SETTING)
    found: dict[str, dict[str, Any]] = {}
    for point in points:
        found.setdefault(json.dumps(point, sort_keys=True, default=str), point)
        if len(found) == wanted:
            break
    return tuple(Setting(number, point) for number, point in enumerate(found.values()))


def config_of(
    experiment: ExperimentSettings, setting: Setting, seed: int, steps: tuple[int, int] | None
) -> RunConfig:
    """A trial's configuration: that of ``base``, then ``config``, then the setting, then the seed.

    Args:
        experiment: The experiment.
        setting: One of its settings.
        seed: One of its seeds.
        steps: With halving, ``max_steps`` of the rung and of the last one. Epochs are as many as
            those steps can need, unless the user says how many there are.

    Raises:
        ConfigError: A key is unknown or a value cannot be used.
    """
    values = dict(_leaves(experiment.config))
    if steps is not None:
        values = {"epochs": steps[1]} | values | {"max_steps": steps[0]}
    values |= {**setting.values, "seed": seed}
    try:
        words = [f"{key}={_word(value)}" for key, value in values.items()]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"a value cannot be used in a configuration: {error}") from None
    try:
        return load_config(experiment.base, words)
    except ConfigError as error:
        raise ConfigError(f"with {setting}: {error}") from None


def _word(value: Any) -> str:
    """A value as the command line takes it: JSON is YAML."""
    return json.dumps(value, allow_nan=False, ensure_ascii=False)


def _leaves(values: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    """Values by dotted key, so that they join what stands in the same sections before."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{place}{key}.")
        else:
            yield f"{place}{key}", value


def _lists(experiment: ExperimentSettings) -> dict[str, list[Any]]:
    return {key: values for key, values in experiment.space.items() if isinstance(values, list)}


def _grid(experiment: ExperimentSettings) -> Iterator[dict[str, Any]]:
    lists = _lists(experiment)
    for values in itertools.product(*lists.values()):
        yield dict(zip(lists, values, strict=True))


def _draws(experiment: ExperimentSettings) -> Iterator[dict[str, Any]]:
    source = random.Random(experiment.sample_seed)
    while True:
        yield {
            key: source.choice(values) if isinstance(values, list) else _number(values, source)
            for key, values in experiment.space.items()
        }


def _number(values: RangeConfig, source: random.Random) -> int | float:
    """A number of a range; five digits are enough to try, and to read."""
    if values.whole and values.scale == "linear":
        return source.randint(int(values.low), int(values.high))
    if values.scale == "linear":
        drawn = source.uniform(values.low, values.high)
    else:
        # A whole number stands for all that round to it, the bounds among them.
        margin = 0.5 if values.whole else 0.0
        low, high = math.log(values.low - margin), math.log(values.high + margin)
        drawn = math.exp(source.uniform(low, high))
    if values.whole:
        return min(max(round(drawn), int(values.low)), int(values.high))
    return min(max(float(f"{drawn:.5g}"), float(values.low)), float(values.high))
