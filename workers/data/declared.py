"""Transforms written as plain values, as a configuration holds them.

    user:    {kind: ids, rows: 944}
    city:    {kind: vocabulary, values: [London, Paris], missing: own}
    device:  {kind: hashed, rows: 131072}
    route:   {kind: hashed, columns: [origin, dest], rows: 4096}
    price:   {kind: ranges, boundaries: [1.0, 5.0, 20.0]}
    hour:    {kind: time, column: clicked_at, part: hour, unit: ms}
    genres:  {kind: list, of: vocabulary, values: [Comedy, Drama], most: 6, separator: "|"}
    viewed:  {kind: list, of: hashed, rows: 65536, most: 20, cut: start}

A feature reads the column of its own name, unless ``column`` names another.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any

from kernels.errors import EmberayError
from workers.data.transforms import (
    Buckets,
    Hashed,
    Ids,
    IdTransform,
    Lists,
    Number,
    Separated,
    TimePart,
    ValueSet,
    Vocabulary,
    read_vocabulary,
)
from workers.errors import ProgramError

__all__ = ["feature_transform", "number_transform"]


def feature_transform(name: str, fields: Mapping[str, Any]) -> IdTransform:
    """The transform that a feature's fields stand for.

    Args:
        name: Of the feature.
        fields: See above; ``kind`` says which transform, the others are its arguments.

    Raises:
        ProgramError: A field is missing, not known, or has a value that cannot be used.
    """
    return _made(f"feature '{name}'", "kind", _FEATURES, {"column": name, **fields})


def number_transform(name: str, fields: Mapping[str, Any]) -> Number:
    """The dense number that these fields stand for: those of `Number`.

    Raises:
        ProgramError: A field is not known, or has a value that cannot be used.
    """

    def number(column: str, **others: Any) -> Number:
        known = ("mean", "scale", "log", "least", "most", "missing")
        _refuse_unknown(others, ("column", *known))
        return Number(column, **others)

    return _made(f"number '{name}'", None, {None: number}, {"column": name, **fields})


def _made(
    where: str,
    key: str | None,
    choices: Mapping[Any, Callable[..., Any]],
    fields: Mapping[str, Any],
) -> Any:
    rest = dict(fields)
    kind = None if key is None else rest.pop(key, None)
    if kind not in choices:
        raise ProgramError(f"{where}: {key} is {kind!r}; give {' or '.join(map(str, choices))}")
    try:
        return choices[kind](**rest)
    except EmberayError as error:
        raise ProgramError(f"{where}: {error}") from error
    except TypeError as error:
        # "_ids() got an unexpected keyword argument 'row'"
        said = re.sub(r"^_?(\w+)\(\) ", r"kind '\1' ", str(error))
        raise ProgramError(f"{where}: {said.replace('keyword argument', 'field')}") from error


def _refuse_unknown(fields: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for name in fields:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
            raise ProgramError(f"unknown field '{name}' ({hint})")


def _ids(*, column: str, rows: int, missing: Any = "refuse") -> Ids:
    return Ids(column, rows + (missing == "own"), missing=missing)


def _vocabulary(
    *,
    column: str,
    values: list[Any] | None = None,
    file: str | None = None,
    unknown: Any = 1,
    missing: Any = "refuse",
) -> Vocabulary:
    if (values is None) == (file is None):
        raise ProgramError("a vocabulary needs either values or file")
    found = read_vocabulary(file) if file is not None else ValueSet(values or [])
    return Vocabulary(column, found, unknown=unknown, missing=missing)


def _hashed(
    *,
    rows: int,
    column: str | None = None,
    columns: list[str] | None = None,
    seed: int = 0,
    missing: Any = "refuse",
) -> Hashed:
    return Hashed(tuple(columns or [str(column)]), rows, seed, missing=missing)


def _ranges(*, column: str, boundaries: list[float], missing: Any = "refuse") -> Buckets:
    return Buckets(column, tuple(map(float, boundaries)), missing=missing)


def _time(*, column: str, part: Any, unit: Any = "s", missing: Any = "refuse") -> TimePart:
    return TimePart(column, part, unit, missing=missing)


def _list(
    *,
    of: str,
    most: int,
    cut: Any = "end",
    missing: Any = "skip",
    separator: str | None = None,
    **inner: Any,
) -> IdTransform:
    if of not in _INSIDE_LISTS:
        raise ProgramError(f"of is {of!r}; give {' or '.join(_INSIDE_LISTS)}")
    made = Lists(_INSIDE_LISTS[of](**{"missing": "skip", **inner}), most, cut, missing)
    return made if separator is None else Separated(separator, made)


_INSIDE_LISTS: Mapping[str, Callable[..., IdTransform]] = {
    "ids": _ids,
    "vocabulary": _vocabulary,
    "hashed": _hashed,
    "ranges": _ranges,
}

_FEATURES: Mapping[str, Callable[..., IdTransform]] = {
    **_INSIDE_LISTS,
    "time": _time,
    "list": _list,
}
