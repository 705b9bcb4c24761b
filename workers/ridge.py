"""Drawing the rows of tables towards 0, as a normal prior does.

A penalty in the loss acts on the rows that a batch looks up, so it counts by samples: rows that are
seen often are drawn most, those seen seldom, of which least is known, hardly at all. A ridge is the
other way round, the same for every row: many samples outweigh it, few do not. In the mean loss of a
sample,

    loss  +  sum over all entries w of all tables:  strength * w² / 2

which is what a normal prior of variance ``1 / (strength * samples)`` comes to in data of so many
samples (MacKay, "Information Theory, Inference, and Learning Algorithms", 2003, chapter 39).

Its gradient concerns every row at every step. It is taken for some steps at once, in one pass over
the tables, and as an implicit step, which is stable however long it is:

    w  ←  w / (1 + steps * rate * strength)        rate: the learning rate / sqrt(accumulator)

The rate is the entry's own under Adagrad, so that both parts of the loss weigh as they should.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from kernels import (
    AdagradOptimizerSpec,
    EmbeddingVariables,
    FeatureSpec,
    OptimizerSpec,
    SGDOptimizerSpec,
    get_stacked_table_specs,
)
from workers.errors import ProgramError

__all__ = ["Ridge"]


@dataclass(frozen=True)
class Ridge:
    """How much all rows of all tables are drawn towards 0.

    Attributes:
        strength: Of every column, per sample: see above.
        first: Of the first column instead, where that is a number that stands for itself.
        every: Steps from one pass over the tables to the next.

    Raises:
        ProgramError: A number is negative, or ``every`` less than 1.
    """

    strength: float
    first: float | None = None
    every: int = 32

    def __post_init__(self) -> None:
        for name, value in (("strength", self.strength), ("first", self.first or 0.0)):
            if not 0 <= value < float("inf"):
                raise ProgramError(f"ridge: {name} is {value}; give a number of at least 0")
        if self.every < 1:
            raise ProgramError(f"ridge: every is {self.every}; give a whole number of at least 1")

    def check(self, table: str, optimizer: OptimizerSpec) -> None:
        """Raise ProgramError unless the table's optimizer is one whose steps are known here."""
        if not isinstance(optimizer, AdagradOptimizerSpec | SGDOptimizerSpec):
            raise ProgramError(
                f"table '{table}' has the optimizer {optimizer.short_name()}; with a ridge, tables "
                "need AdagradOptimizerSpec or SGDOptimizerSpec"
            )

    def drawn(
        self,
        tables: Mapping[str, EmbeddingVariables],
        specs: Mapping[str, FeatureSpec],
        step: jax.Array,
    ) -> dict[str, EmbeddingVariables]:
        """Tables after the step, drawn towards 0 where a pass is due.

        Args:
            tables: By stack, a device's rows.
            specs: Feature specs with the plan applied.
            step: int32 scalar, steps done before this one.
        """
        stacks = get_stacked_table_specs(dict(specs))

        def one_pass(tables: Mapping[str, EmbeddingVariables]) -> dict[str, EmbeddingVariables]:
            return {
                name: self._pass_over(variables, stacks[name].optimizer, step)
                for name, variables in tables.items()
            }

        due = step % self.every == self.every - 1
        return jax.lax.cond(due, one_pass, dict, tables)

    def _pass_over(
        self, variables: EmbeddingVariables, optimizer: OptimizerSpec, step: jax.Array
    ) -> EmbeddingVariables:
        table = variables.table
        strength = jnp.full(table.shape[1], self.strength, table.dtype)
        if self.first is not None:
            strength = strength.at[0].set(self.first)
        pull = self.every * optimizer.get_learning_rate(step) * strength
        if isinstance(optimizer, AdagradOptimizerSpec):
            (accumulator,) = variables.slot
            # An accumulator of 0 has seen no gradient, and its entry has an infinite rate.
            pull = pull / jnp.sqrt(jnp.maximum(accumulator, jnp.finfo(table.dtype).tiny))
        return variables._replace(table=table / (1 + pull))
