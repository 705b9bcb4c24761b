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

import functools
from collections.abc import Callable, Mapping
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

BLOCK_VALUES = 1 << 19
"""Values of a block: 2 MiB of float32."""


@dataclass(frozen=True)
class Ridge:
    """How much all rows of all tables are drawn towards 0.

    Attributes:
        strength: Of every column, per sample: see above.
        first: Of the first column instead, where that is a number that stands for itself.
        every: Steps from one pass over the tables to the next. Where a pass is due in a step that
            is skipped, as something in it is not finite, that pass is left out.

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
        if not isinstance(self.every, int) or self.every < 1:
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
        platform: str,
    ) -> dict[str, EmbeddingVariables]:
        """Tables after the step, drawn towards 0 where a pass is due.

        Args:
            tables: By stack, a device's rows.
            specs: Feature specs with the plan applied.
            step: int32 scalar, steps done before this one.
            platform: What the step runs on, as ``cpu`` or ``tpu``.
        """
        stacks = get_stacked_table_specs(dict(specs))

        def of_stack(name: str, variables: EmbeddingVariables) -> EmbeddingVariables:
            optimizer, table = stacks[name].optimizer, variables.table
            # Gradient descent has one rate for all entries.
            squares = variables.slot[0] if isinstance(optimizer, AdagradOptimizerSpec) else table
            over = _over_blocks if platform == "tpu" else _over_all
            return variables._replace(
                table=over(functools.partial(self._entries, optimizer, step), table, squares)
            )

        def one_pass(tables: Mapping[str, EmbeddingVariables]) -> dict[str, EmbeddingVariables]:
            return {name: of_stack(name, variables) for name, variables in tables.items()}

        due = step % self.every == self.every - 1
        return jax.lax.cond(due, one_pass, dict, tables)

    def _entries(
        self,
        optimizer: OptimizerSpec,
        step: jax.Array,
        entries: jax.Array,
        squares: jax.Array,
        column: jax.Array,
    ) -> jax.Array:
        """Entries of a table after a pass, from their accumulators and the columns they are in."""
        first = self.strength if self.first is None else self.first
        strength = jnp.where(column == 0, first, self.strength).astype(entries.dtype)
        pull = self.every * optimizer.get_learning_rate(step) * strength
        if isinstance(optimizer, AdagradOptimizerSpec):
            # An accumulator of 0 has seen no gradient, and its entry has no rate yet.
            pull = jnp.where(squares > 0, pull / jnp.sqrt(squares), 0)
        return entries / (1 + pull)


type _Entries = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def _over_all(entries: _Entries, table: jax.Array, squares: jax.Array) -> jax.Array:
    return entries(table, squares, jnp.arange(table.shape[1]))


def _over_blocks(
    entries: _Entries, table: jax.Array, squares: jax.Array, block: int = BLOCK_VALUES
) -> jax.Array:
    """The same, a block after another.

    On TPUs a table lies as SparseCores read it, and XLA brings all of it, many times its size where
    rows are short, into the order of the TensorCore and back for what concerns the whole. As one
    long row it lies alike in both, and blocks of that are changed where they are.
    """
    values, squares = table.reshape(-1), squares.reshape(-1)

    def changed(values: jax.Array, start: jax.Array, count: int) -> jax.Array:
        column = (start + jax.lax.iota(jnp.uint32, count)) % jnp.uint32(table.shape[1])
        own, of_own = (
            jax.lax.dynamic_slice_in_dim(array, start, count) for array in (values, squares)
        )
        return jax.lax.dynamic_update_slice_in_dim(values, entries(own, of_own, column), start, 0)

    block = min(block, table.size)
    blocks, rest = divmod(table.size, block)

    def one(number: jax.Array, values: jax.Array) -> jax.Array:
        return changed(values, number.astype(jnp.uint32) * jnp.uint32(block), block)

    values = jax.lax.fori_loop(0, blocks, one, values)
    if rest:
        # Of a slice whose place the compiler knows, it makes one of the whole again.
        start = jax.lax.optimization_barrier(jnp.uint32(blocks * block))
        values = changed(values, start, rest)
    return values.reshape(table.shape)
