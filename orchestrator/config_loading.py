"""From YAML and ``key=value`` words to a checked ``RunConfig``.

    load_config("ranker.yaml", ["batch_size=4096", "parameters.embedding_dim=16"])

Values of overrides are YAML too, so ``max_steps=null`` and ``parameters.layers=[64, 32]`` work.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from orchestrator.config import RunConfig
from orchestrator.errors import ConfigError
from orchestrator.plain_yaml import read_yaml
from workers.redaction import hidden_in

__all__ = ["load_config", "make_config", "parse_override", "read_settings"]


def load_config(path: str | Path | None = None, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a configuration file, apply overrides, check the whole.

    Args:
        path: A YAML file; None starts from the defaults.
        overrides: Words ``key=value``; dots in the key lead into sections.

    Raises:
        ConfigError: The file cannot be read, or a key or value cannot be used.
    """
    values = {} if path is None else read_settings(Path(path))
    for word in overrides:
        keys, value = parse_override(word)
        _assign(values, keys, value)
    return make_config(values, place=None if path is None else str(path))


def make_config(values: Mapping[str, Any], place: str | None = None) -> RunConfig:
    """Check plain values and make a ``RunConfig`` of them.

    Args:
        values: By key, sections as nested mappings.
        place: Where they come from, for the message of an error.

    Raises:
        ConfigError: A key is unknown or a value has the wrong type or range; all of them are named.
            Or a secret is missing that was left out of a run's ``config.yaml``.
    """
    hidden = tuple(dict.fromkeys(hidden_in(values)))
    if hidden:
        raise ConfigError(
            f"{place or 'the configuration'} does not hold {', '.join(hidden)}, as secrets are not "
            f"written down: give {'it' if len(hidden) == 1 else 'them'} again, as "
            + " ".join(f"{key}=…" for key in hidden)
        )
    try:
        return RunConfig.model_validate(dict(values))
    except ValidationError as error:
        problems = "; ".join(_explain(problem) for problem in error.errors())
        raise ConfigError(f"{place}: {problems}" if place else problems) from None


def parse_override(word: str) -> tuple[tuple[str, ...], Any]:
    """Split ``a.b=value`` into its keys and its value.

    Raises:
        ConfigError: There is no ``=`` or no key, or the value is not YAML.
    """
    key, equals, text = word.partition("=")
    keys = tuple(part.strip() for part in key.split("."))
    if not equals or not all(keys):
        raise ConfigError(f"'{word}' is not of the form key=value")
    try:
        return keys, read_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{key}: the value '{text}' is not YAML: {_one_line(error)}") from None


def read_settings(path: Path) -> dict[str, Any]:
    """Keys and values of a configuration file, not checked.

    Raises:
        ConfigError: It cannot be read, or holds something else.
    """
    try:
        values = read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"cannot read the configuration {path}: {reason}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {_one_line(error)}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold keys and values, but holds a {type(values).__name__}")
    return values


def _assign(values: dict[str, Any], keys: tuple[str, ...], value: Any) -> None:
    for depth, key in enumerate(keys[:-1]):
        inner = values.setdefault(key, {})
        if not isinstance(inner, dict):
            outer = ".".join(keys[: depth + 1])
            raise ConfigError(f"{'.'.join(keys)}: '{outer}' is {inner!r}, not a section")
        values = inner
    values[keys[-1]] = value


def _explain(problem: Mapping[str, Any]) -> str:
    """One problem that pydantic found, in words that name the key, the value and the fix."""
    place = [str(part) for part in problem["loc"] if not str(part).startswith("<")]
    if problem["type"] == "extra_forbidden":
        known = _keys_of_section(place[:-1])
        near = difflib.get_close_matches(place[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean '{'.'.join([*place[:-1], near[0]])}'?" if near else _listed(known)
        return f"unknown key '{'.'.join(place)}' ({hint})"
    if problem["type"] == "value_error":  # raised by the configuration itself, with all that helps
        said = str(problem["ctx"]["error"])
        return f"{'.'.join(place)}: {said}" if place else said
    said = problem["msg"][0].lower() + problem["msg"][1:]
    if problem["type"] == "missing":
        return f"{'.'.join(place)}: {said}"
    return f"{'.'.join(place)}: {said}, but it is {problem['input']!r}"


def _listed(known: list[str]) -> str:
    return f"known keys: {', '.join(known)}"


def _keys_of_section(place: list[str]) -> list[str]:
    """Keys of the model at ``place``; keys of mappings on the way are passed over."""
    model: type[BaseModel] = RunConfig
    for part in place:
        candidates = [model.model_fields[part].annotation] if part in model.model_fields else []
        for candidate in candidates:
            for found in _models_in(candidate):
                model = found
    return sorted(model.model_fields)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for inner in getattr(annotation, "__args__", ()) for found in _models_in(inner)]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
