"""A ranking program made from columns that a configuration declares: ``data=… label=…`` uses it.

    program: workers.programs.columns:program
    parameters:
      label: clicked
      features:
        user: {kind: hashed, rows: 131072, penalty: 0.02}
        city: {kind: vocabulary, values: [London, Paris]}
      numbers:
        price: {mean: 2.1, scale: 0.9, log: true}

Every feature has a table of its own, unless it names that of another with ``table``; the model is
that of DLRM and DCN v2, with a linear term. The fields of features are those of
``workers.data.declared``, and ``penalty``, by which the activations of one are shrunk.
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
from workers.programs.shrinkage import ShrunkCrossEntropy

__all__ = ["program"]


def program(
    label: str,
    features: Mapping[str, Mapping[str, Any]],
    numbers: Mapping[str, Mapping[str, Any]] | None = None,
    positive: float | str | None = None,
    embedding_dim: int = 16,
    table_learning_rate: float = 0.3,
    learning_rate: float = 1e-3,
    default_penalty: float = 1e-2,
    interaction_penalty: float = 4e-2,
    shrinkage: float = 0.5,
    linear_shrinkage: float = 0.5,
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
        default_penalty: ``penalty`` of features that name none.
        interaction_penalty: See ``ShrunkCrossEntropy``.
        shrinkage: See ``ShrunkCrossEntropy``.
        linear_shrinkage: See ``ShrunkCrossEntropy``.
        initial_accumulator: Of Adagrad.
        initial_deviation: Standard deviation of the tables' first values.
        cross_layers: See ``RankingModel``.
        cross_rank: See ``RankingModel``.
        hidden: See ``RankingModel``.
        products: See ``RankingModel``.
        total_steps: Steps of the run.
    """
    optimizer = AdagradOptimizerSpec(
        learning_rate=optax.linear_schedule(table_learning_rate, 0.0, total_steps),
        initial_accumulator_value=initial_accumulator,
    )
    made, rows, penalties = [], {}, {}
    for name, fields in features.items():
        if fields is None:
            continue
        if not isinstance(fields, Mapping):
            raise ProgramError(f"feature '{name}' is {fields!r}; give its fields, as {{kind: ids}}")
        own = dict(fields)
        table = str(own.pop("table", name))
        penalties[name] = _penalty(name, own.pop("penalty", default_penalty))
        transform = feature_transform(name, own)
        made.append(Feature(name, table, transform))
        rows[table] = max(rows.get(table, 0), transform.vocabulary_size)
    tables = tuple(
        TableSpec(
            name=name,
            vocabulary_size=count,
            embedding_dim=embedding_dim,
            initializer=jax.nn.initializers.normal(initial_deviation),
            optimizer=optimizer,
            combiner="mean",
        )
        for name, count in rows.items()
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
        model=RankingModel(cross_layers, cross_rank, tuple(hidden), products, linear=True),
        optimizer=optax.adam(optax.linear_schedule(learning_rate, 0.0, total_steps)),
        loss=ShrunkCrossEntropy(
            tuple(penalties.items()), interaction_penalty, shrinkage, linear_shrinkage
        ),
    )


def _penalty(name: str, given: Any) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given < math.inf:
        raise ProgramError(f"feature '{name}': penalty is {given!r}; give a number of at least 0")
    return float(given)
