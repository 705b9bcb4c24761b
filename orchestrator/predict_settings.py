"""What ``predict`` is told: its own options, and where it is to run."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from orchestrator.config import RunConfig
from orchestrator.config_loading import parse_override
from orchestrator.config_sections import NotNegative, Positive, Section
from orchestrator.errors import ConfigError
from orchestrator.kept_config import KeptConfig

__all__ = ["PLACES", "PredictSettings", "explain_option", "predict_settings"]

PLACES = (
    *("hosts", "devices_per_host", "platform", "batch_size", "minibatching"),
    *("cluster", "failures", "elastic"),
)
"""Options of a run that may be set anew to predict: where it runs, but not what was trained."""


class PredictSettings(Section):
    """Options of ``predict``."""

    data: str | None = None
    """Data to predict; unset, that of the run."""
    out: str
    """Folder to make, reachable from every host."""
    step: int | str = "newest"
    """Checkpoint: ``newest``, ``best``, or a step."""
    split: Literal["train", "test"] | None = None
    """Split of the data, where it has several, or where the run held rows out."""
    keep: list[str] = Field(default=[])
    """Columns of the data to write beside the predictions."""
    method: str | None = None
    """Method of the model to ask, instead of the program's choice."""
    part_rows: Positive = 1 << 20
    """Rows of an output file."""
    quarantine: NotNegative = 0
    """Most rows that may be left without a prediction because they cannot be used."""

    @field_validator("keep", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        """``keep=user,item`` means what ``keep=[user, item]`` does."""
        return [name for name in value.split(",") if name] if isinstance(value, str) else value

    @field_validator("out")
    @classmethod
    def _on_disk(cls, value: str) -> str:
        if "://" in value:
            raise ValueError("it must be a folder that all hosts can reach, not an address")
        return value


def predict_settings(run_folder: Path, words: Sequence[str]) -> tuple[PredictSettings, RunConfig]:
    """The options, and the run's configuration as it is to predict.

    Limits are found anew, and no id is left out.

    Args:
        run_folder: Folder of the run that trained.
        words: ``key=value``; of `PredictSettings`, or of a run's configuration (`PLACES`).

    Raises:
        ConfigError: A key is unknown or a value cannot be used.
    """
    kept = KeptConfig.of(run_folder)
    own: dict[str, Any] = {}
    overrides = []
    fields = PredictSettings.model_fields
    for word in words:
        keys, value = parse_override(word)
        if kept.lacks(word):
            overrides.append(word)
            own |= {"data": value} if keys == ("data",) else {}
        elif len(keys) == 1 and keys[0] in fields:
            own[keys[0]] = value
        elif keys[0] in PLACES:
            overrides.append(word)
        else:
            near = difflib.get_close_matches(keys[0], [*fields, *PLACES], n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(fields)}"
            raise ConfigError(f"predict has no option '{'.'.join(keys)}' ({hint})")
    try:
        settings = PredictSettings.model_validate(own)
    except ValidationError as error:
        raise ConfigError(explain_option(error)) from None
    config = kept.with_words(overrides)
    return settings, config.model_copy(update={"limits": "auto", "drop_ids": False})


def explain_option(error: ValidationError) -> str:
    """The first thing that is wrong with options, in words."""
    problem: Any = error.errors()[0]
    name = ".".join(map(str, problem["loc"]))
    if problem["type"] == "missing":
        return f"{name} is missing: give {name}=PATH"
    said = problem.get("ctx", {}).get("error", problem["msg"])
    return f"{name}: {said}, but it is {problem['input']!r}"
