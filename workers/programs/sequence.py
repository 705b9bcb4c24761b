r"""Will a user click, given what they clicked before, in its order? Attention over the history.

    python -m orchestrator train program=workers.programs.sequence:program

    history [n, positions, width] + place ─► attention, asked by the item ─► interest ┐
    user, item, hour                                                                  ├─► DCN v2
    dense columns                                                                     ┘

Every past item keeps an activation of its own (a sequence feature), and the item in question
decides how much each of them counts (Zhou et al., "Deep Interest Network for click-through rate
prediction", 2018, with softmax attention).

On the synthetic click log with the defaults its AUC comes close to the best possible one, which is
shown beside it at the end of a run; see docs/own-model.md.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from kernels import AdagradOptimizerSpec, TableSpec, unflatten_sequences
from workers.data.synthetic import HOURS, ClickLog
from workers.data.transforms import Ids, Lists, Number
from workers.program import BinaryCrossEntropy, Feature, Program
from workers.programs.dlrm import RankingModel

__all__ = ["SequenceModel", "program"]


class SequenceModel(nn.Module):
    """Attention of the item over the history, then cross and hidden layers over everything.

    Attributes:
        positions: Most past items.
        heads: Ways of looking at the history.
        hidden: See ``RankingModel``.
    """

    positions: int
    heads: int = 2
    hidden: tuple[int, ...] = (64, 32)

    @nn.compact
    def __call__(self, activations: Mapping[str, jax.Array], dense: jax.Array) -> jax.Array:
        """Logits ``[n]``; the activations of ``history`` are ``[n * positions, width]``."""
        item = activations["item"]
        past = unflatten_sequences(activations["history"], self.positions)
        # A position without an item has an activation of zeros.
        held = jnp.any(past != 0, axis=-1)
        place = self.param("place", nn.initializers.normal(0.01), (self.positions, item.shape[-1]))
        keys = nn.Dense(self.heads * item.shape[-1], name="keys")(past + place)
        keys = keys.reshape(*past.shape[:2], self.heads, -1)
        queries = nn.Dense(self.heads * item.shape[-1], name="queries")(item)
        queries = queries.reshape(item.shape[0], self.heads, -1)
        scores = jnp.einsum("nphw,nhw->nhp", keys, queries) / jnp.sqrt(item.shape[-1])
        weights = jax.nn.softmax(jnp.where(held[:, None], scores, -1e9), axis=-1)
        # Nothing, where there is no past: softmax would spread over the padding.
        weights = jnp.where(held[:, None], weights, 0.0)
        interest = jnp.einsum("nhp,npw->nhw", weights, past).reshape(item.shape[0], -1)
        others = {name: rows for name, rows in activations.items() if name != "history"}
        return RankingModel(2, None, self.hidden, name="ranking")(
            {**others, "interest": interest}, dense
        )


def program(
    rows: int = 1_000_000,
    test_rows: int = 100_000,
    users: int = 20_000,
    items: int = 5_000,
    history: int = 8,
    data_seed: int = 0,
    embedding_dim: int = 16,
    table_learning_rate: float = 0.4,
    learning_rate: float = 1e-2,
    activation_penalty: float = 1e-6,
    hidden: tuple[int, ...] = (64, 32),
    total_steps: int = 1,
) -> Program:
    """The sequence program; both learning rates fall linearly to 0 over the run.

    Args:
        rows: See ``ClickLog``, as for all up to ``data_seed``.
        test_rows: Rows to evaluate on.
        users: Number of users.
        items: Number of items.
        history: Most past items of a row.
        data_seed: Seed of the log.
        embedding_dim: Width of all tables.
        table_learning_rate: Of Adagrad, for the tables.
        learning_rate: Of Adam, for the rest of the model.
        activation_penalty: Weight of the activations' squares in the loss.
        hidden: See ``RankingModel``.
        total_steps: Steps of the run.
    """
    log = ClickLog(rows, test_rows, users, items, history, seed=data_seed)

    def table(name: str, vocabulary: int) -> TableSpec:
        return TableSpec(
            name=name,
            vocabulary_size=vocabulary,
            embedding_dim=embedding_dim,
            initializer=jax.nn.initializers.normal(0.01),
            optimizer=AdagradOptimizerSpec(
                learning_rate=optax.linear_schedule(table_learning_rate, 0.0, total_steps),
                initial_accumulator_value=1e-4,
            ),
            combiner="mean",
        )

    return Program(
        name="sequence",
        tables=(table("user", users), table("item", items), table("hour", HOURS)),
        features=(
            Feature("user", "user", Ids("user", users)),
            Feature("item", "item", Ids("item", items)),
            Feature("hour", "hour", Ids("hour", HOURS)),
            Feature("history", "item", Lists(Ids("history", items), history), sequence=True),
        ),
        dense=(Number("price"), Number("age")),
        label="label",
        model=SequenceModel(history, hidden=tuple(hidden)),
        optimizer=optax.adam(optax.linear_schedule(learning_rate, 0.0, total_steps)),
        loss=BinaryCrossEntropy(activation_penalty),
        prepare_data=lambda: log.address,
    )
