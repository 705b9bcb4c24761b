"""What the columns of a data set are, understood from the schema, the metadata and a sample.

    understand("logs", "clicked")  ─►  columns, each with what it is taken for, and why
                                   ─►  parameters of ``workers.programs.columns``

The same data gives the same result. What was understood is written into the run's configuration,
where it can be changed; nothing is understood again later.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from workers.data.column_facts import ColumnFacts, Known, known_of
from workers.data.column_rules import Taken, take
from workers.data.declared import feature_transform
from workers.data.effects import deviations
from workers.data.evidence import Counts, groups_of
from workers.data.holdout import Holdout
from workers.data.labels import Label, read_label
from workers.data.sampling import sample_rows
from workers.data.sources import has_split, open_dataset
from workers.data.synthetic import is_synthetic
from workers.data.transforms.times import is_time
from workers.errors import DataError, ProgramError

__all__ = ["Column", "Understanding", "understand"]

SAMPLE_ROWS = 200_000
"""Rows looked at by default."""

TWINS = 1.1
"""Pairs of values that two columns have at most, for each value, if they say the same."""

STRONG = 0.9
"""A column that alone orders the label so well is worth a question."""


@dataclass(frozen=True)
class Column:
    """One column, and what it is taken for.

    Attributes:
        name: Of the column.
        type: Its Arrow type, as text.
        nulls: Share of nulls.
        counts: How often values occur.
        alone: AUC of the column alone against the label; NaN without one.
        taken: What it is taken for, and why.
    """

    name: str
    type: str
    nulls: float
    counts: Counts
    alone: float
    taken: Taken


@dataclass(frozen=True)
class Understanding:
    """What was understood of a data set.

    Attributes:
        rows: Rows to train on.
        test_rows: Rows of the data's own ``test`` split, 0 without one.
        sample_rows: Rows that were looked at.
        label: What is predicted; None if none was named.
        columns: All columns, in the order of the files.
        times: Names of the columns that hold moments.
    """

    rows: int
    test_rows: int
    sample_rows: int
    label: Label | None
    columns: tuple[Column, ...]
    times: tuple[str, ...]

    def parameters(self) -> dict[str, Any]:
        """Parameters of ``workers.programs.columns:program``.

        Raises:
            DataError: There is no label, or no column to make ids from.
        """
        if self.label is None:
            raise DataError("no label was named: give label=COLUMN")
        features = {n: dict(f) for c in self.columns for n, f in c.taken.features.items()}
        numbers = {n: dict(f) for c in self.columns for n, f in c.taken.numbers.items()}
        if not features:
            features = _ranges_of(self.columns)
        if not features:
            left = [
                f"'{c.name}': {c.taken.why}" for c in self.columns if c.taken.kind == "left out"
            ]
            raise DataError(
                f"no column can be used to predict '{self.label.column}': "
                + ("; ".join(left) or "the data has no other column")
            )
        made: dict[str, Any] = {"label": self.label.column}
        if self.label.positive is not None:
            made["positive"] = self.label.positive
        made["rows"] = self.rows
        return made | {"features": features, "numbers": numbers}

    def advice(self) -> list[str]:
        """What a person should look at before they trust the result."""
        said = []
        if self.label is not None:
            said.append(self.label.why)
        for column in self.columns:
            if column.taken.kind == "left out" and column.alone >= STRONG:
                said.append(f"'{column.name}' is left out: {column.taken.why}")
            elif column.alone >= STRONG:
                said.append(
                    f"'{column.name}' alone reaches AUC {column.alone:.3f}: is it known when a "
                    f"prediction is needed? If not: parameters.features.{column.name}=null"
                )
        if not self.test_rows and self.times:
            said.append(
                f"to be judged on the latest rows: holdout.by=time holdout.column={self.times[0]}"
            )
        return said


def understand(
    data: str,
    label: str | None = None,
    holdout: Holdout | None = None,
    rows: int = SAMPLE_ROWS,
) -> Understanding:
    """Look at a sample of the data and decide what its columns are.

    Args:
        data: Where it is: see ``workers.data.files``.
        label: Column to predict.
        holdout: Rows that are held out: they are not looked at.
        rows: How many rows to look at.

    Raises:
        DataError: The data cannot be read, has no such column, or the label cannot be used.
    """
    if is_synthetic(data):
        raise DataError(f"data '{data}' has its own program: workers.programs.clicks:program")
    train = open_dataset(data, "train", None, holdout)
    test = [open_dataset(data, "test", None, holdout)] if has_split(data, "test", holdout) else []
    known = known_of([train, *test])
    names = list(train.schema.names)
    if label is not None and label not in names:
        raise DataError(
            f"data '{data}' has no column '{label}'; it has {', '.join(map(repr, names))}"
        )
    sample = sample_rows(train, rows, names)
    judged = sample_rows(test[0], max(1, rows // 10), names) if test else None
    target = None if label is None else read_label(label, sample.column(label))
    told = set() if holdout is None or not holdout.values else holdout.columns
    columns = tuple(
        _column(
            ColumnFacts(
                name,
                sample.column(name),
                train.rows,
                known.get(name, Known()),
                None if target is None else target.labels,
                None if judged is None else judged.column(name),
            ),
            "label" if name == label else "split" if name in told else None,
        )
        for name in names
    )
    columns = _without_twins(columns, sample)
    if target is not None:
        columns = _with_deviations(columns, sample, target.labels)
    times = tuple(
        c.name
        for c in columns
        if is_time(train.schema.field(c.name).type) or c.taken.kind == "time"
    )
    return Understanding(
        train.rows,
        test[0].rows if test and holdout is None else 0,
        sample.num_rows,
        target,
        columns,
        times,
    )


def _column(facts: ColumnFacts, role: str | None) -> Column:
    known_type = pa.types.is_nested(facts.type) and not hasattr(facts.type, "value_type")
    if known_type:
        counts, nulls = Counts(0, 0, 0.0, 0.0), 0.0
    else:
        counts, nulls = facts.counts, facts.null_share
    if role == "label":
        return Column(
            facts.name,
            str(facts.type),
            nulls,
            counts,
            float("nan"),
            Taken("label", "what is predicted"),
        )
    if role == "split":
        return Column(
            facts.name,
            str(facts.type),
            nulls,
            counts,
            float("nan"),
            Taken("split", "tells which rows are held out"),
        )
    alone = float("nan") if known_type else facts.alone
    return Column(facts.name, str(facts.type), nulls, counts, alone, take(facts))


def _with_deviations(
    columns: tuple[Column, ...], sample: pa.Table, labels: np.ndarray
) -> tuple[Column, ...]:
    """With what the values of every feature add to the logit, as far as the sample tells."""
    ids = {}
    for column in columns:
        for name, fields in column.taken.features.items():
            # What cannot be used may yet be left out, or its rows put aside: it is told later.
            with suppress(DataError, ProgramError):
                ids[name] = feature_transform(name, fields).apply(sample)
    found = deviations(ids, labels)

    def with_own(name: str, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        own = {"deviation": float(f"{found[name]:.3g}")} if name in found else {}
        return {**fields, **own}

    def completed(taken: Taken) -> Taken:
        return replace(taken, features={n: with_own(n, f) for n, f in taken.features.items()})

    return tuple(replace(column, taken=completed(column.taken)) for column in columns)


def _ranges_of(columns: tuple[Column, ...]) -> dict[str, Mapping[str, Any]]:
    """A program needs ids: without any, the halves of every number."""
    return {
        f"{column.name}_range": {
            "kind": "ranges",
            "column": column.name,
            "boundaries": [float(np.expm1(f["mean"]) if f.get("log") else f["mean"])],
            **({"missing": "own"} if "missing" in f else {}),
        }
        for column in columns
        for f in column.taken.numbers.values()
    }


def _without_twins(columns: tuple[Column, ...], sample: pa.Table) -> tuple[Column, ...]:
    """Leave out a column whose values go (nearly) one to one with those of a column before it.

    A title beside a number of an item: both would learn the same, each from half of the gradient.
    """
    kept: list[Column] = []
    seen: list[tuple[str, int, np.ndarray]] = []
    for column in columns:
        ids = column.taken.kind in ("ids", "hashed", "vocabulary")
        if ids and column.counts.distinct > 2 and not column.taken.numbers:
            groups, _ = groups_of(sample.column(column.name))
            count = column.counts.distinct
            twin = next(
                (
                    (name, pairs)
                    for name, other, theirs in seen
                    if max(count, other) <= TWINS * min(count, other)
                    and (pairs := _pairs(groups, theirs)) <= TWINS * min(count, other)
                ),
                None,
            )
            if twin is not None:
                nearly = "" if twin[1] == count else "nearly "
                why = f"its values go {nearly}one to one with those of '{twin[0]}'"
                column = replace(column, taken=Taken("left out", why))
            else:
                seen.append((column.name, count, groups))
        kept.append(column)
    return tuple(kept)


def _pairs(first: np.ndarray, second: np.ndarray) -> int:
    """How many different pairs of groups there are in rows that have both."""
    both = (first >= 0) & (second >= 0)
    return len(np.unique(first[both] * (int(second.max(initial=0)) + 1) + second[both]))
