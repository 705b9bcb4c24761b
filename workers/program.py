"""Program: what a user trains.

A program names its tables, features, dense columns and label, and brings a flax model, a loss and
an optax optimizer for the dense part. It lives in an importable module as a callable returning it:

    # my_package/ranker.py
    def program(embedding_dim: int = 16, total_steps: int = 1) -> Program: ...

and a config names it: ``program: my_package.ranker:program``, ``parameters: {embedding_dim: 32}``.
Every host builds it anew from that name, so it must not depend on anything else.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import importlib
import inspect
import re
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from kernels import FeatureSpec, TableSpec
from workers.data.examples import Schema
from workers.data.transforms import DenseTransform, IdTransform
from workers.errors import ProgramError
from workers.ranking import Ranking
from workers.ridge import Ridge

__all__ = ["BinaryCrossEntropy", "Feature", "Loss", "Program", "load_program"]

MOST_ROWS = 2**31 - 1
"""Most rows of a table."""

type Loss = Callable[[jax.Array, jax.Array, Mapping[str, jax.Array]], jax.Array]
"""(logits [n], labels [n], activations {feature: [n, width]}) → loss of every sample [n]."""


@dataclass(frozen=True)
class Feature:
    """One embedding feature: which ids, looked up in which table.

    Attributes:
        name: Name of the feature; the model finds its activations under it.
        table: Name of the table; several features may share one.
        transform: Makes the ids from columns.
        sequence: Whether every id keeps an activation of its own: the model then finds
            ``[n * valency, width]`` under the name, for `kernels.unflatten_sequences`. Otherwise
            the ids of a sample are combined to ``[n, width]``.
    """

    name: str
    table: str
    transform: IdTransform
    sequence: bool = False

    @property
    def positions(self) -> int:
        """Activations a sample has."""
        return self.transform.valency if self.sequence else 1


@dataclass(frozen=True)
class BinaryCrossEntropy:
    """Logistic loss, plus ``activation_penalty`` times the sum of squares of the activations.

    The penalty acts on the rows of a batch only: it regularises tables without touching all rows.
    """

    activation_penalty: float = 0.0

    def __call__(
        self, logits: jax.Array, labels: jax.Array, activations: Mapping[str, jax.Array]
    ) -> jax.Array:
        """Loss of every sample, ``[n]``."""
        losses = optax.sigmoid_binary_cross_entropy(logits, labels)
        if self.activation_penalty:
            squares = sum(
                jnp.sum(jnp.square(rows).reshape(len(labels), -1), axis=-1)
                for rows in activations.values()
            )
            losses = losses + self.activation_penalty * squares
        return losses


@dataclass(frozen=True)
class Program:
    """Everything that defines what is trained, but for the data and the cluster.

    Attributes:
        name: Short name, part of the run folder's.
        tables: Embedding tables, with their optimizers. Never changed: planning works on copies.
        features: Embedding features.
        dense: Dense columns, in the order the model sees them.
        label: Column of the label, 0 or 1.
        model: flax module, called with ``({feature: [n, width]}, dense [n, len(dense)])``; returns
            logits ``[n]``. The last batch of an epoch is filled up with samples of weight 0, which
            have no ids and dense columns of 0: logits and gradients must be finite for them too.
        optimizer: Updates the model's parameters (the tables have their own).
        loss: Loss of every sample.
        prepare_data: Prepares the program's own data and returns where it is; None if it has none.
        ranking: Has evaluations tell recall@k and NDCG@k; None does not. It changes nothing in
            training, so it may differ when a run is resumed.
        scoring: Method of the model that predictions and exports ask, where the model itself looks
            at other samples of the batch too: see ``workers.scoring``. It changes nothing in
            training.
        positive: What of the label counts as 1, where it is not 0 or 1: see ``Schema``.
        ridge: Draws all rows of all tables towards 0; None leaves those alone that no batch has.
    """

    name: str
    tables: tuple[TableSpec, ...]
    features: tuple[Feature, ...]
    dense: tuple[DenseTransform, ...]
    label: str
    model: nn.Module
    optimizer: optax.GradientTransformation
    loss: Loss = dataclasses.field(default_factory=BinaryCrossEntropy)
    prepare_data: Callable[[], Path | str] | None = None
    positive: float | str | None = None
    ranking: Ranking | None = None
    scoring: str = "__call__"
    ridge: Ridge | None = None

    def __post_init__(self) -> None:
        tables = {table.name: table for table in self.tables}
        _refuse_repeats("table", [table.name for table in self.tables])
        _refuse_repeats("feature", [feature.name for feature in self.features])
        for table in self.tables:
            if table.vocabulary_size > MOST_ROWS:
                raise ProgramError(
                    f"table '{table.name}' has a vocabulary of {table.vocabulary_size}; row ids "
                    f"are 32-bit numbers, so {MOST_ROWS} is the most: hash into fewer rows"
                )
            if self.ridge is not None:
                self.ridge.check(table.name, table.optimizer)
        if not self.features:
            raise ProgramError(f"program '{self.name}' has no embedding feature")
        if self.ranking is not None and not hasattr(self.model, self.ranking.method):
            raise ProgramError(
                f"program '{self.name}' has a ranking, but its model has no method "
                f"'{self.ranking.method}' that returns scores and the relevant candidates"
            )
        for feature in self.features:
            if feature.table not in tables:
                raise ProgramError(
                    f"feature '{feature.name}' uses table '{feature.table}', which is not among "
                    f"the program's tables: {', '.join(sorted(tables))}"
                )
            rows = tables[feature.table].vocabulary_size
            if feature.transform.vocabulary_size > rows:
                raise ProgramError(
                    f"feature '{feature.name}' makes ids up to "
                    f"{feature.transform.vocabulary_size - 1}, but table '{feature.table}' has a "
                    f"vocabulary of {rows}; raise it to {feature.transform.vocabulary_size}"
                )

    @property
    def schema(self) -> Schema:
        """How columns become examples."""
        features = tuple((feature.name, feature.transform) for feature in self.features)
        return Schema(features, self.dense, self.label, self.positive)

    def feature_specs(self, batch_size: int) -> dict[str, FeatureSpec]:
        """Fresh feature specs for a global batch, by feature name; not yet stacked."""
        tables = {table.name: dataclasses.replace(table) for table in self.tables}
        return {
            feature.name: FeatureSpec(
                name=feature.name,
                table_spec=tables[feature.table],
                input_shape=(
                    batch_size * feature.positions,
                    feature.transform.valency // feature.positions,
                ),
                output_shape=(
                    batch_size * feature.positions,
                    tables[feature.table].embedding_dim,
                ),
            )
            for feature in self.features
        }

    def fingerprint(self) -> str:
        """Changes when the program does: 16 hexadecimal digits.

        Covers what can be told from values: tables, features, transforms, the model's fields and
        the loss, functions by their names. Code inside functions and the dense optimizer are not
        covered; the parameters a config gives are compared beside it.
        """
        tables = [
            (t.name, t.vocabulary_size, t.embedding_dim, t.combiner, type(t.optimizer).__name__)
            for t in self.tables
        ]
        text = repr(
            (self.name, tables, self.features, self.dense, self.label, repr(self.model), self.loss)
            + (() if self.positive is None else (self.positive,))
            + (() if self.ridge is None else (self.ridge.strength, self.ridge.first))
        )
        # Addresses differ between processes.
        return hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", text).encode()).hexdigest()[:16]


def load_program(reference: str, parameters: Mapping[str, Any], total_steps: int = 1) -> Program:
    """Import and call what ``package.module:callable`` names.

    A callable with an argument ``total_steps`` is given the number of steps of the run, for
    learning-rate schedules; nothing else may depend on it.

    Raises:
        ProgramError: It cannot be imported, has no such callable, does not take these parameters,
            or returns something else than a Program.
    """
    module_name, separator, attribute = reference.partition(":")
    if not separator or not module_name or not attribute:
        raise ProgramError(
            f"program '{reference}' must be written as package.module:callable, for example "
            "workers.programs.flights:program"
        )
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        missing = (isinstance(error, ModuleNotFoundError) and error.name) or ""
        if missing and (module_name == missing or module_name.startswith(f"{missing}.")):
            raise ProgramError(
                f"program '{reference}': no module '{missing}'; is its folder on the Python path?"
            ) from error
        raise ProgramError(f"program '{reference}': importing it failed: {_told(error)}") from error
    make = getattr(module, attribute, None)
    if not callable(make):
        raise ProgramError(
            f"program '{reference}': module '{module_name}' has no callable '{attribute}'"
        )
    known = _arguments(make)
    _check_parameters(reference, known, parameters)
    given = {"total_steps": total_steps} if "total_steps" in known else {}
    try:
        made = make(**given | dict(parameters))
    except ProgramError:
        raise
    except Exception as error:
        raise ProgramError(f"program '{reference}' could not be made: {_told(error)}") from error
    if not isinstance(made, Program):
        raise ProgramError(f"program '{reference}' returned {type(made).__name__}, not a Program")
    return made


def _told(error: Exception) -> str:
    """An exception in one line, with the place it was raised at."""
    where = ""
    if isinstance(error, SyntaxError):
        where = f" ({error.filename}:{error.lineno})"
    elif frames := traceback.extract_tb(error.__traceback__):
        where = f" ({frames[-1].filename}:{frames[-1].lineno})"
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {message}{where}"


def _arguments(make: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(make).parameters
    except ValueError:  # a built-in without a signature takes what it takes
        return {"_": inspect.Parameter("_", inspect.Parameter.VAR_KEYWORD)}


def _check_parameters(
    reference: str, known: Mapping[str, inspect.Parameter], parameters: Mapping[str, Any]
) -> None:
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values()):
        return
    for name in parameters:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean '{near[0]}'?)" if near else ""
            raise ProgramError(
                f"program '{reference}' has no parameter '{name}'{hint}; it takes "
                f"{', '.join(known) or 'none'}"
            )


def _refuse_repeats(kind: str, names: list[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ProgramError(f"{kind} names must be unique; repeated: {', '.join(repeated)}")
