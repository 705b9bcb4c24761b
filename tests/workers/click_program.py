"""A click program whose tables are far larger than everything else in a step."""

from __future__ import annotations

import jax
import optax

from kernels import AdagradOptimizerSpec, TableSpec
from workers import Feature, Ids, Number, Program, Tags
from workers.programs.dlrm import RankingModel

__all__ = ["program"]


def program(users: int = 30_000_000, tags: int = 1_000_000) -> Program:
    """Four features of one id in one stack, and lists of tags, of other width, in another."""
    rows = {"user": users, "item": users // 4, "shop": 300_000, "day": 7}

    optimizer = AdagradOptimizerSpec(optax.linear_schedule(0.1, 0.0, 1000))

    def table(name: str, vocabulary: int, width: int, combiner: str) -> TableSpec:
        return TableSpec(
            name=name,
            vocabulary_size=vocabulary,
            embedding_dim=width,
            initializer=jax.nn.initializers.normal(0.1),
            optimizer=optimizer,
            combiner=combiner,
        )

    several = (Feature("tags", "tags", Tags("tags", tags, valency=8)),) if tags else ()
    return Program(
        name="clicks",
        tables=(
            *(table(name, count, 16, "sum") for name, count in rows.items()),
            *((table("tags", tags, 32, "mean"),) if tags else ()),
        ),
        features=(
            *(Feature(name, name, Ids(name, count)) for name, count in rows.items()),
            *several,
        ),
        dense=(Number("price"),),
        label="label",
        model=RankingModel(2, 16, (32, 16)),
        optimizer=optax.adam(1e-3),
    )
