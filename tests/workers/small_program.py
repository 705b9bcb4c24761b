"""A program small enough for tests: one id, one list of tags, one number."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from kernels import AdagradOptimizerSpec, TableSpec
from workers import Feature, Ids, Number, Program, Tags
from workers.programs.dlrm import RankingModel

WIDTH = 8


class Linear(nn.Module):
    """One dense layer over everything."""

    @nn.compact
    def __call__(self, activations: dict[str, jax.Array], dense: jax.Array) -> jax.Array:
        rows = [activations[name] for name in sorted(activations)]
        return nn.Dense(1)(jnp.concatenate([*rows, dense], axis=-1))[:, 0]


def program(vocabulary: int = 50, learning_rate: float = 0.3, linear: bool = False) -> Program:
    def table(name: str, rows: int, combiner: str) -> TableSpec:
        return TableSpec(
            name=name,
            vocabulary_size=rows,
            embedding_dim=WIDTH,
            initializer=jax.nn.initializers.normal(0.1),
            optimizer=AdagradOptimizerSpec(learning_rate=learning_rate),
            combiner=combiner,
        )

    return Program(
        name="small",
        tables=(table("item", vocabulary, "sum"), table("tags", 40, "mean")),
        features=(
            Feature("item", "item", Ids("item", vocabulary)),
            Feature("tags", "tags", Tags("tags", 40, valency=3)),
        ),
        dense=(Number("price"),),
        label="label",
        model=Linear() if linear else RankingModel(1, None, (16,)),
        optimizer=optax.adam(1e-2),
    )
