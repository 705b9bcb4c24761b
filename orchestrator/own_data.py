"""A configuration for data that nobody wrote a program for: ``data=… label=…``.

The columns are understood once, before anything is launched, and the result becomes part of the
configuration, as if somebody had written it:

    data: /logs                      program: workers.programs.columns:program
    label: clicked             ─►    parameters: {label: clicked, features: {…}, numbers: {…}}
                                     holdout: {by: random, share: 0.1}
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.config import HoldoutConfig, RunConfig
from orchestrator.errors import ConfigError

if TYPE_CHECKING:
    from workers.data.understanding import Understanding

__all__ = ["COLUMNS_PROGRAM", "check_program", "complete", "run_length"]

COLUMNS_PROGRAM = "workers.programs.columns:program"

_STEPS = 500
"""Steps of an epoch that the batch size is chosen for, where none is set."""


def complete(config: RunConfig, say: Callable[[str], None] = lambda _: None) -> RunConfig:
    """The configuration with everything filled in that the data must be looked at for.

    Without a ``label``, that is no more than the moment to hold out from. What is set is kept:
    ``parameters.embedding_dim=8`` as well as ``parameters.features.price=null``, which leaves out a
    feature.

    Args:
        config: As given.
        say: Takes lines that tell what was understood.

    Raises:
        ConfigError: The label has no data, or stands beside a program that names its own.
        DataError: The data cannot be read, or no column of it used.
    """
    if config.label is not None and "program" in config.model_fields_set:
        if config.program != COLUMNS_PROGRAM or config.parameters.get("label") != config.label:
            named = config.parameters.get("label")
            raise ConfigError(
                f"label: '{config.label}' stands beside the program '{config.program}'"
                + (f" for the label '{named}'" if named else "")
                + ", which names its own label; leave out one of them"
            )
        config = config.model_copy(update={"label": None})
    config, data = _with_start(config), config.data
    if config.label is None:
        return config
    if data is None:
        raise ConfigError(f"label: '{config.label}' needs data to look at: give data=PATH")
    from workers.data.sources import has_split
    from workers.data.understanding import understand

    given = config.holdout.by != "none"
    if not given and not has_split(data, "test"):
        config = config.model_copy(update={"holdout": HoldoutConfig(by="random")})
    understood = understand(data, config.label, config.holdout.chosen())
    for line in _lines(understood, config, given):
        say(line)
    kept = config.model_fields_set
    batch_size, epochs = run_length(understood.rows)
    batch_size = config.batch_size if "batch_size" in kept else batch_size
    # Gradients are means over a batch: with this, a row's first steps do not depend on its size.
    accumulator = float(f"{1e-4 * (256 / batch_size) ** 2:.4g}")
    own = {"initial_accumulator": accumulator, **config.parameters}
    return config.model_copy(
        update={
            "program": COLUMNS_PROGRAM,
            "parameters": _merged(understood, own),
            "label": None,
            "batch_size": batch_size,
            "epochs": config.epochs if "epochs" in kept else epochs,
        }
    )


def run_length(rows: int) -> tuple[int, int]:
    """Batch size and epochs for so many rows: small data takes smaller steps, and more of them."""
    batch_size = 1 << max(7, min(10, (rows // _STEPS).bit_length() - 1))
    return (
        batch_size,
        1 if rows > 20_000_000 else 2 if rows > 1_000_000 else 5,
    )


def check_program(config: RunConfig) -> None:
    """Check that data comes with a label, or a program that suits it.

    Raises:
        ConfigError: It does not.
        DataError: The data cannot be read.
    """
    data = config.data
    if data is None or config.label is not None or "program" in config.model_fields_set:
        return
    from workers.data.sources import open_dataset
    from workers.data.synthetic import is_synthetic
    from workers.program import load_program

    if is_synthetic(data):
        return
    columns = open_dataset(data, "train", None).schema.names
    label = load_program(config.program, config.parameters).label
    if label not in columns:
        raise ConfigError(
            f"data '{data}' was given without a label or a program: give label=COLUMN (it has "
            f"{', '.join(map(repr, columns))}), or program=package.module:callable"
        )


def _with_start(config: RunConfig) -> RunConfig:
    """The same with the moment from which on rows are held out."""
    if config.holdout.by != "time" or config.holdout.start is not None or config.data is None:
        return config
    from workers.data.splitting import resolve_holdout

    chosen = config.holdout.chosen()
    assert chosen is not None
    start = resolve_holdout(config.data, chosen).start
    return config.model_copy(update={"holdout": config.holdout.model_copy(update={"start": start})})


def _merged(found: Understanding, given: Mapping[str, Any]) -> dict[str, Any]:
    """What was understood, overridden by what was given; null leaves out a feature or number."""
    understood = found.parameters()
    columns = [column.name for column in found.columns]
    merged = {**understood, **given}
    for key in ("features", "numbers"):
        own = given.get(key) or {}
        if not isinstance(own, Mapping):
            raise ConfigError(f"parameters.{key} is {own!r}; give fields by name")
        known = {*understood[key], *columns}
        for name in (name for name, fields in own.items() if fields is None):
            if name not in known:
                near = difflib.get_close_matches(str(name), known, 1)
                raise ConfigError(
                    f"parameters.{key}.{name} is null, but there is nothing of that name to leave "
                    + (f"out (did you mean '{near[0]}'?)" if near else "out")
                    + f"; there are {', '.join(sorted(understood[key])) or 'none'}"
                )
        both = {**understood[key], **own}
        merged[key] = {name: fields for name, fields in both.items() if fields is not None}
    return merged


def _lines(understood: Understanding, config: RunConfig, given: bool) -> list[str]:
    """What was understood, in a few lines."""
    kinds: dict[str, list[str]] = {}
    for column in understood.columns:
        if column.taken.kind not in ("label", "split"):
            kinds.setdefault(column.taken.kind, []).append(column.name)
    lines = [f"{kind}: {', '.join(names)}" for kind, names in sorted(kinds.items())]
    if not understood.test_rows:
        holdout = config.holdout
        said = {
            "random": f"{holdout.share:.0%} of the rows, at random",
            "time": f"rows with {holdout.column} from {holdout.start} on",
            "column": f"rows by their {holdout.column}",
        }[holdout.by]
        lines.append(f"held out: {said}" + ("" if given else ", as the data has no folder 'test'"))
    return lines + understood.advice()
