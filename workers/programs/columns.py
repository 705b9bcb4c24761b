"""A ranking program made from columns that a configuration declares: ``data=… label=…`` uses it.

    program: workers.programs.columns:program
    parameters:
      label: clicked
      features:
        user: {kind: hashed, rows: 131072, deviation: 0.9}
        city: {kind: vocabulary, values: [London, Paris]}
      numbers:
        price: {mean: 2.1, scale: 0.9, log: true}

Every feature has a table of its own, unless it names that of another with ``table``; the model is
that of DLRM and DCN v2, with a linear term. The fields of features are those of
``workers.data.declared``, and ``deviation``.

Every row is drawn towards 0 (``workers.ridge``) as if it came from a normal distribution, of which
a row that is seen often soon knows better. What a row adds to the logit by itself has the feature's
``deviation``; its other columns, that meet those of other features, have the same for all. They are
small, so that pairs count only where many samples speak for them. These are the two parts of a
factorization machine, and their priors (Rendle, "Factorization Machines with libFM", 2012).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import optax

from kernels import AdagradOptimizerSpec, TableSpec
from workers.data.declared import feature_transform, number_transform
from workers.errors import ProgramError
from workers.program import Feature, Program
from workers.programs.dlrm import RankingModel
from workers.ridge import Ridge

__all__ = ["program"]

_LINEAR_UNIT = 3.0
"""Deviations that a first column of 1 stands for. It sets the pace: steps are so much longer for
these columns, of which each must go far by itself."""

_PASSES = 32
"""Times in a run, at most, that all rows are drawn towards 0."""


def program(
    label: str,
    features: Mapping[str, Mapping[str, Any]],
    numbers: Mapping[str, Mapping[str, Any]] | None = None,
    positive: float | str | None = None,
    embedding_dim: int = 16,
    table_learning_rate: float = 0.3,
    learning_rate: float = 1e-3,
    rows: int = 100_000,
    precision: float = 12.0,
    default_deviation: float = 0.5,
    initial_accumulator: float = 1e-4,
    initial_deviation: float = 0.1,
    cross_layers: int = 2,
    cross_rank: int = 32,
    hidden: tuple[int, ...] = (64, 32),
    products: bool = True,
    total_steps: int = 1,
) -> Program:
    """The program of these columns; both learning rates fall linearly to 0 over the run.

    Args:
        label: Column of the label.
        features: By name, how ids are made; null leaves one out.
        numbers: By name, how dense numbers are made; null leaves one out.
        positive: What of the label counts as 1, where it is not 0 or 1: numbers of at least this,
            or this string.
        embedding_dim: Width of all tables.
        table_learning_rate: Of Adagrad, for the tables.
        learning_rate: Of Adam, for the rest of the model.
        rows: Of the data that is trained on: priors are weighed against so many, so it should be
            about right.
        precision: One over the variance of the columns that interact, for every feature there is,
            as more features make more pairs: the larger, the less pairs count.
        default_deviation: ``deviation`` of features that name none.
        initial_accumulator: Of Adagrad.
        initial_deviation: Standard deviation of the tables' first values.
        cross_layers: See ``RankingModel``.
        cross_rank: See ``RankingModel``.
        hidden: See ``RankingModel``.
        products: See ``RankingModel``.
        total_steps: Steps of the run.
    """
    for parameter, value in (("rows", rows), ("precision", precision)):
        _refuse_unless_positive(parameter, value)
    optimizer = AdagradOptimizerSpec(
        learning_rate=optax.linear_schedule(table_learning_rate, 0.0, total_steps),
        initial_accumulator_value=initial_accumulator,
    )
    made, sizes, linear = [], {}, {}
    for name, fields in features.items():
        if fields is None:
            continue
        if not isinstance(fields, Mapping):
            raise ProgramError(f"feature '{name}' is {fields!r}; give its fields, as {{kind: ids}}")
        own = dict(fields)
        table = str(own.pop("table", name))
        deviation = _deviation(name, own.pop("deviation", default_deviation))
        linear[name] = _LINEAR_UNIT * deviation
        transform = feature_transform(name, own)
        made.append(Feature(name, table, transform))
        sizes[table] = max(sizes.get(table, 0), transform.vocabulary_size)
    tables = tuple(
        TableSpec(
            name=name,
            vocabulary_size=count,
            embedding_dim=embedding_dim,
            initializer=jax.nn.initializers.normal(initial_deviation),
            optimizer=optimizer,
            combiner="mean",
        )
        for name, count in sizes.items()
    )
    return Program(
        name=label,
        tables=tables,
        features=tuple(made),
        dense=tuple(
            number_transform(name, own) for name, own in (numbers or {}).items() if own is not None
        ),
        label=label,
        positive=positive,
        model=RankingModel(
            cross_layers, cross_rank, tuple(hidden), products, linear=tuple(linear.items())
        ),
        optimizer=optax.adam(optax.linear_schedule(learning_rate, 0.0, total_steps)),
        ridge=Ridge(
            strength=precision * len(made) / rows,
            first=_LINEAR_UNIT**2 / rows,
            every=-(-total_steps // _PASSES),
        ),
    )


def _deviation(name: str, given: Any) -> float:
    _refuse_unless_positive(f"feature '{name}': deviation", given)
    return float(given)


def _refuse_unless_positive(what: str, given: Any) -> None:
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given < math.inf:
        raise ProgramError(f"{what} is {given!r}; give a number above 0")
