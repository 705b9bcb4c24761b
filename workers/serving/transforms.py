"""Columns to ids and numbers as plain data, for ``workers.serving.serve``, which reads it.

What a transform needs beyond a few numbers, such as the hashes of a vocabulary's values, becomes an
array of its own. A transform that is not one of ours cannot be taken along: whoever serves then
gives its result.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from workers.data.transforms import (
    Buckets,
    Crossed,
    DenseTransform,
    Hashed,
    Ids,
    IdTransform,
    Lists,
    LogShare,
    Number,
    Separated,
    Tags,
    TimePart,
    ValueSet,
    Vocabulary,
    hash_values,
)

__all__ = ["as_data"]


def as_data(
    transform: IdTransform | DenseTransform, name: str, arrays: dict[str, np.ndarray]
) -> dict[str, Any] | None:
    """A transform as JSON values; None if it is not one of ours.

    Args:
        transform: The transform.
        name: Begins the names of its arrays.
        arrays: Takes the arrays it needs, by name.
    """
    if not type(transform).__module__.startswith("workers.data.transforms"):
        return None  # also of one that only builds on ours
    match transform:
        case Ids():
            return _fields(transform, "ids", "column", "size", "missing")
        case Hashed():
            told = _fields(transform, "hashed", "columns", "buckets", "seed", "missing")
            return told | {"start": transform.seed}
        case Vocabulary():
            told = _fields(transform, "vocabulary", "column", "unknown", "missing")
            told["known"] = len(transform.values)
            return told | _values(transform.values, name, arrays)
        case Buckets():
            return _fields(transform, "buckets", "column", "boundaries", "missing")
        case TimePart():
            return _fields(transform, "time", "column", "part", "unit", "missing")
        case Tags():
            of = _fields(transform, "hashed", "columns", "buckets", "seed", "missing")
            told = _fields(transform, "lists", "column", "valency", "cut", "missing")
            return told | {"of": of | {"start": 0}}
        case Lists(of=inner) | Separated(of=inner):
            of = as_data(inner, name, arrays)
            (column,) = transform.columns
            told = (
                _fields(transform, "lists", "valency", "cut", "missing")
                if isinstance(transform, Lists)
                else _fields(transform, "separated", "separator")
            )
            return None if of is None else told | {"column": column, "of": of}
        case Crossed():
            made = [as_data(p, f"{name}.{k}", arrays) for k, p in enumerate(transform.parts)]
            parts = [part for part in made if part is not None]
            if len(parts) < len(made):
                return None
            sizes = [part.vocabulary_size for part in transform.parts]
            told = _fields(transform, "crossed", "buckets", "seed")
            return told | {"parts": parts, "sizes": sizes}
        case Number():
            names = ("column", "mean", "scale", "log", "least", "most", "missing")
            return _fields(transform, "number", *names)
        case LogShare():
            counts = transform.counts.counts
            arrays[f"{name}.counts"] = counts
            told = _fields(transform, "log_share", "column") | {"counts": f"{name}.counts"}
            return told | _values(transform.counts.values, name, arrays)
    return None


def _fields(transform: Any, kind: str, *names: str) -> dict[str, Any]:
    values: Mapping[str, Any] = {name: getattr(transform, name) for name in names}
    return {"kind": kind} | {
        name: list(value) if isinstance(value, tuple) else value for name, value in values.items()
    }


def _values(values: ValueSet, name: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """A vocabulary as the hashes of its values, in the order of their ids."""
    arrays[f"{name}.values"] = hash_values(values.values, values.seed)
    return {
        "values": f"{name}.values",
        "seed": values.seed,
        "of": "strings" if values.strings else "integers",
    }
