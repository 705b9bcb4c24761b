"""What a model says of rows: which of its methods is asked, and the columns its answer makes.

By default that is the model itself, whose logits are written with the probabilities they stand for:

    logit         float32
    prediction    float32, 1 / (1 + exp(-logit))

A program may name a method for that instead (``Program.scoring``), and any other method may be
asked for by name: a method ``queries`` that gives ``[n, width]`` makes a column ``queries`` of
lists of ``width`` numbers. Methods are called as the model is, with activations and dense columns;
one that takes a single argument gets the activations.
"""

from __future__ import annotations

import inspect
from typing import Any

import jax
import jax.numpy as jnp

from workers.errors import ProgramError
from workers.program import Program

__all__ = [
    "LOGIT",
    "PREDICTION",
    "abstract_parameters",
    "columns_of",
    "scores_of",
    "scoring_method",
]

LOGIT, PREDICTION = "logit", "prediction"
"""Columns of the model itself."""

_CALL = "__call__"


def scoring_method(program: Program, method: str | None) -> str:
    """The method that is asked: the one given, or else the program's choice.

    Raises:
        ProgramError: The model has no such method, or one that takes other arguments.
    """
    chosen = method or program.scoring
    found = getattr(type(program.model), chosen, None)
    if not callable(found) or (chosen.startswith("_") and chosen != _CALL):
        raise ProgramError(
            f"the model of program '{program.name}' ({type(program.model).__name__}) has no method "
            f"'{chosen}' to predict with: leave out method, or name one that takes the activations "
            "and the dense columns"
        )
    if not 1 <= _arguments(program, chosen) <= 2:
        raise ProgramError(
            f"method '{chosen}' of {type(program.model).__name__} cannot predict: it must take "
            "the activations and the dense columns, or the activations alone"
        )
    return chosen


def columns_of(method: str) -> tuple[str, ...]:
    """Names of the columns that a method's answer makes."""
    return (LOGIT, PREDICTION) if method == _CALL else (method,)


def abstract_parameters(program: Program) -> Any:
    """Shapes and types of the model's parameters."""
    widths = {table.name: table.embedding_dim for table in program.tables}

    def make() -> Any:
        activations = {
            feature.name: jnp.zeros((feature.positions, widths[feature.table]))
            for feature in program.features
        }
        dense = jnp.zeros((1, len(program.dense)))
        return program.model.init(jax.random.key(0), activations, dense)

    return jax.eval_shape(make)


def scores_of(
    program: Program, method: str, parameters: Any, activations: Any, dense: jax.Array
) -> dict[str, jax.Array]:
    """The columns of a device's samples, ``[n]`` or ``[n, width]`` float32 by name.

    Raises:
        ProgramError: The method returns something else.
    """
    arguments = (activations, dense)[: _arguments(program, method)]
    said: Any = program.model.apply(parameters, *arguments, method=method)
    if not isinstance(said, jax.Array) or said.ndim not in (1, 2):
        shape = getattr(said, "shape", None)
        raise ProgramError(
            f"method '{method}' of {type(program.model).__name__} returned "
            f"{type(said).__name__ if shape is None else f'an array of shape {shape}'}; to predict "
            "with, it must return an array [n] or [n, width]"
        )
    said = said.astype("float32")
    if method == _CALL:
        return {LOGIT: said, PREDICTION: jax.nn.sigmoid(said)}
    return {method: said}


def _arguments(program: Program, method: str) -> int:
    """How many positional arguments a method takes without a default, but for ``self``."""
    signature = inspect.signature(getattr(type(program.model), method))
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    taken = [p for p in signature.parameters.values() if p.kind in kinds and p.default is p.empty]
    return len(taken) - 1
