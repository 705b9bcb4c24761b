"""What an experiment's file says: which settings are tried, with which seeds, and what is best."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, Discriminator, Field, Tag, ValidationError, model_validator

from orchestrator.config_sections import NotNegative, Positive, Seconds, Section
from orchestrator.errors import ConfigError
from orchestrator.plain_yaml import read_yaml

__all__ = [
    "ExperimentSettings",
    "HalvingConfig",
    "RangeConfig",
    "load_experiment",
    "make_experiment",
]

_SPLITS = ("test", "train")
_FIGURES = ("auc", "normalised_entropy", "loss", "calibration", "accuracy")
_RANKING = re.compile(r"(recall|ndcg)@\d+")
_WHOLE = ("examples_per_second", "seconds")
_LOWER_IS_BETTER = ("loss", "normalised_entropy", "seconds")


class RangeConfig(Section):
    """Numbers that random trials draw from."""

    low: int | float
    """Smallest value."""
    high: int | float
    """Largest value."""
    scale: Literal["linear", "log"] = "linear"
    """``log`` draws every order of magnitude alike."""
    whole: bool = False
    """Whether only whole numbers are drawn."""

    @model_validator(mode="after")
    def _bounds_are_in_order(self) -> Self:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"low must be below high, but they are {self.low} and {self.high}")
        if self.scale == "log" and self.low <= 0:
            raise ValueError(f"scale log needs low above 0, but it is {self.low}")
        if self.whole and not (float(self.low).is_integer() and float(self.high).is_integer()):
            raise ValueError(f"whole needs whole bounds, but they are {self.low} and {self.high}")
        return self


class HalvingConfig(Section):
    """Successive halving: all settings train a little, and the better ones go on."""

    steps: Positive
    """``max_steps`` of the first rung."""
    factor: Annotated[int, Field(ge=2)] = 3
    """One of so many settings goes on to the next rung, which has so many times the steps."""
    rungs: Positive | None = None
    """Rungs; unset, as many as it takes until one setting is left."""


def _branch(value: Any) -> str:
    """Which form of a key's values was meant, so that an error speaks of that form alone."""
    return "<values>" if isinstance(value, list) else "<range>"


type Values = Annotated[
    Annotated[list[Any], Field(min_length=1), Tag("<values>")]
    | Annotated[RangeConfig, Tag("<range>")],
    Discriminator(_branch),
]


class ExperimentSettings(Section):
    """An experiment, as its file describes it."""

    name: str = "experiment"
    """Name of the experiment, for its folder and its page."""
    base: str | None = None
    """A run's configuration file that all trials start from; relative to the experiment's file."""
    config: dict[str, Any] = Field(default={})
    """Keys of a run's configuration that all trials share, over those of ``base``."""
    space: dict[str, Values] = Field(min_length=1)
    """By key of a run's configuration, dots leading into sections: a list of values, or a range
    ``{low: …, high: …}`` to draw from."""
    search: Literal["grid", "random"] = "grid"
    """``grid`` tries all combinations, ``random`` draws ``samples`` of them."""
    samples: Positive | None = None
    """Settings that a random search draws."""
    sample_seed: NotNegative = 0
    """Of the draws. More ``samples`` with the same seed begin with the same settings."""
    seeds: Annotated[list[NotNegative], Field(min_length=1)] = Field(default=[0])
    """Every setting is trained once with each of these as ``seed``."""
    halving: HalvingConfig | None = None
    """Successive halving; unset, all trials run to their end."""
    metric: str = "test.auc"
    """What settings are ranked by: ``test.…`` or ``train.…`` and a figure, or
    ``examples_per_second`` or ``seconds``."""
    mode: Literal["max", "min"] | None = None
    """Whether larger or smaller is better; unset, what the metric's name says."""
    side_by_side: Positive | None = None
    """Most trials at a time; unset, as many as the cluster has room for."""
    trial_timeout: Seconds | None = None
    """Seconds after which a trial is stopped and counts as failed; unset, it may take any time."""
    stop_grace: Seconds = 120.0
    """Seconds that a trial has to save and leave before it is killed."""

    @model_validator(mode="after")
    def _keys_go_together(self) -> Self:
        ranges = [key for key, values in self.space.items() if isinstance(values, RangeConfig)]
        if self.search == "grid" and ranges:
            raise ValueError(
                f"space.{ranges[0]} is a range, which has no end of values: list some, or set "
                "search: random"
            )
        if (self.search == "random") != (self.samples is not None):
            raise ValueError("samples goes with search: random: give both, or neither")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds has one twice: {self.seeds}")
        for key in self.space:
            inside = [other for other in self.space if other.startswith(f"{key}.")]
            if inside:
                raise ValueError(f"space has {key} and {inside[0]}, which is a part of it")
        for key in ("seed", "cluster.address", *(("max_steps",) if self.halving else ())):
            reason = {
                "seed": "list them under seeds",
                "cluster.address": "all trials share one cluster, that of base or config",
                "max_steps": "halving says how many steps each rung has",
            }[key]
            if key in self.space:
                raise ValueError(f"{key} cannot be in space: {reason}")
            if key == "max_steps" and key in self.config:
                raise ValueError(f"{key} cannot be in config: {reason}")
        _check_metric(self.metric)
        return self

    @property
    def larger_is_better(self) -> bool:
        """Whether the larger figure is the better one."""
        if self.mode is not None:
            return self.mode == "max"
        return self.metric.rpartition(".")[2] not in _LOWER_IS_BETTER


def load_experiment(path: Path) -> ExperimentSettings:
    """Read an experiment's file.

    Raises:
        ConfigError: It cannot be read, or a key or value cannot be used; all of them are named.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"cannot read the experiment {path}: {reason}") from None
    try:
        values = read_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    settings = make_experiment(values, str(path))
    if settings.base is not None:
        base = str((path.parent / settings.base).absolute())
        settings = settings.model_copy(update={"base": base})
    return settings


def make_experiment(values: Any, place: str) -> ExperimentSettings:
    """Check plain values and make an experiment of them.

    Args:
        values: What the file holds.
        place: Where they come from, for the message of an error.

    Raises:
        ConfigError: A key is unknown or a value cannot be used; all of them are named.
    """
    if not isinstance(values, dict):
        raise ConfigError(
            f"{place} must hold keys and values, space among them, but holds "
            f"{'nothing' if values is None else f'a {type(values).__name__}'}"
        )
    try:
        return ExperimentSettings.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(_explain(problem) for problem in error.errors())
        raise ConfigError(f"{place}: {problems}") from None


def _explain(problem: Mapping[str, Any]) -> str:
    where = [str(part) for part in problem["loc"] if not str(part).startswith("<")]
    name = ".".join(where)
    if problem["type"] == "extra_forbidden":
        section: type[BaseModel] = ExperimentSettings
        if len(where) > 1:
            section = HalvingConfig if where[0] == "halving" else RangeConfig
        known = sorted(section.model_fields)
        near = difflib.get_close_matches(where[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean '{'.'.join([*where[:-1], near[0]])}'?" if near else ", ".join(known)
        return f"unknown key '{name}' ({hint if near else f'known keys: {hint}'})"
    if problem["type"] == "value_error":
        said = str(problem["ctx"]["error"])
        return f"{name}: {said}" if name else said
    if problem["type"] == "model_type" and where[0] == "space":
        return (
            f"{name}: give a list of values, or a range {{low: …, high: …}}; "
            f"it is {problem['input']!r}"
        )
    said = f"{name}: {problem['msg'][0].lower()}{problem['msg'][1:]}"
    return said if problem["type"] == "missing" else f"{said}, but it is {problem['input']!r}"


def _check_metric(metric: str) -> None:
    split, _, figure = metric.partition(".")
    if metric in _WHOLE or (
        split in _SPLITS and (figure in _FIGURES or _RANKING.fullmatch(figure))
    ):
        return
    known = [*(f"{split}.{figure}" for split in _SPLITS for figure in _FIGURES), *_WHOLE]
    near = difflib.get_close_matches(metric, known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}, test.recall@10"
    raise ValueError(f"there is no metric '{metric}' ({hint})")
