r"""Which items will a user click? Two towers, trained against the other items of the batch.

    python -m orchestrator train program=workers.programs.two_tower:program epochs=3

    user, history ──user tower──► query  ┐
                                         ├─ scores [users of the batch, items of the batch]
    item ──item tower──► candidate       ┘

A row's own item is to be told from those of the other rows (in-batch softmax). Frequent items are
among those more often than a softmax over all items would have them, so the logarithm of an item's
share is taken off its scores while training (Yi et al., "Sampling-bias-corrected neural modeling
for large corpus item recommendations", 2019): scores then are those of that softmax, popularity
included. Only clicked rows are learned from; the items of all rows are candidates.

To serve, the candidates of all items are computed once, and those nearest to a query looked up.

An evaluation tells recall@k and NDCG@k among the items of a batch; docs/own-model.md has the
figures it reaches on the synthetic click log.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from kernels import AdagradOptimizerSpec, TableSpec
from workers.data.synthetic import ClickLog
from workers.data.transforms import Ids, Lists, LogShare, Number, ValueCounts, ValueSet
from workers.program import Feature, Program
from workers.ranking import Ranking, in_batch

__all__ = ["ClickedRows", "TwoTowers", "program"]


class TwoTowers(nn.Module):
    """A tower for users and one for items; what they say is compared by its inner product.

    Dense columns are the item's number from 1 on, and the logarithm of its share of the rows.

    Attributes:
        width: Of what the towers give.
        hidden: Of the layer within each tower.
    """

    width: int = 32
    hidden: int = 64

    def setup(self) -> None:
        """Layers of both towers."""
        self.user_tower = nn.Sequential([nn.Dense(self.hidden), nn.gelu, nn.Dense(self.width)])
        self.item_tower = nn.Sequential([nn.Dense(self.hidden), nn.gelu, nn.Dense(self.width + 1)])

    def queries(self, activations: Mapping[str, jax.Array]) -> jax.Array:
        """What the users look for, ``[n, width + 1]``, the last a 1 for the items' bias."""
        of_user = jnp.concatenate([activations["user"], activations["history"]], axis=-1)
        wanted = self.user_tower(of_user)
        return jnp.concatenate([wanted, jnp.ones_like(wanted[:, :1])], axis=-1)

    def candidates(self, activations: Mapping[str, jax.Array]) -> jax.Array:
        """What the items are, ``[n, width + 1]``, the last how popular they are."""
        return self.item_tower(activations["item"])

    def score(self, activations: Mapping[str, jax.Array], dense: jax.Array) -> jax.Array:
        """How well each row's item suits its user, ``[n]``: what candidates are ranked by."""
        del dense
        return jnp.sum(self.queries(activations) * self.candidates(activations), axis=-1)

    def rank(
        self, activations: Mapping[str, jax.Array], dense: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Scores of the batch's items for every user, and which one is the row's own."""
        return in_batch(self.queries(activations), self.candidates(activations), keys=dense[:, 0])

    def __call__(self, activations: Mapping[str, jax.Array], dense: jax.Array) -> jax.Array:
        """Log-odds that the row's item is the one, out of the batch's: ``[n]``.

        The logistic loss of these, for a label of 1, is the cross-entropy of the softmax.
        """
        keys, log_share = dense[:, 0], dense[:, 1]
        # The log share comes off the bias. What fills up the last batch is no candidate.
        off = jnp.where(keys >= 1, log_share, 1e9)
        candidates = self.candidates(activations).at[:, -1].add(-off)
        scores, own = in_batch(self.queries(activations), candidates)
        mine = jnp.arange(scores.shape[1]) == own
        own_score = jnp.sum(jnp.where(mine, scores, 0.0), axis=-1)
        others = jax.nn.logsumexp(jnp.where(mine, -1e30, scores), axis=-1)
        return jnp.where(keys >= 1, own_score - others, 0.0)


class ClickedRows:
    """Softmax cross-entropy of clicked rows; others are candidates and nothing else."""

    def __repr__(self) -> str:
        return "ClickedRows()"

    def __call__(
        self, logits: jax.Array, labels: jax.Array, activations: Mapping[str, jax.Array]
    ) -> jax.Array:
        """Loss of every sample, ``[n]``."""
        return labels * jax.nn.softplus(-logits)


def program(
    rows: int = 1_000_000,
    test_rows: int = 100_000,
    users: int = 20_000,
    items: int = 5_000,
    history: int = 8,
    skew: float = 0.3,
    data_seed: int = 0,
    embedding_dim: int = 16,
    table_learning_rate: float = 0.1,
    learning_rate: float = 5e-3,
    cutoffs: tuple[int, ...] = (1, 10, 100),
    total_steps: int = 1,
) -> Program:
    """The retrieval program; both learning rates fall linearly to 0 over the run.

    Args:
        rows: See ``ClickLog``, as for all up to ``data_seed``.
        test_rows: Rows to evaluate on.
        users: Number of users.
        items: Number of items.
        history: Most past items of a row.
        skew: Exponent of the Zipf distributions; small, as what is popular anyway needs no towers.
        data_seed: Seed of the log.
        embedding_dim: Width of all tables.
        table_learning_rate: Of Adagrad, for the tables.
        learning_rate: Of Adam, for the towers.
        cutoffs: The numbers ``k`` of recall@k and NDCG@k.
        total_steps: Steps of the run.
    """
    log = ClickLog(rows, test_rows, users, items, history, skew, data_seed)
    shares = np.diff((1.0 + np.arange(items + 1)) ** (1 - log.skew)) * np.sign(1 - log.skew)
    # Of data of your own: LogShare("item", read_counts("items.parquet")), with a file made by
    # workers.write_vocabulary.
    log_share = LogShare("item", ValueCounts(ValueSet(list(range(items)), "items"), shares))

    def table(name: str, vocabulary: int) -> TableSpec:
        return TableSpec(
            name=name,
            vocabulary_size=vocabulary,
            embedding_dim=embedding_dim,
            initializer=jax.nn.initializers.normal(0.1),
            optimizer=AdagradOptimizerSpec(
                learning_rate=optax.linear_schedule(table_learning_rate, 0.0, total_steps),
                initial_accumulator_value=1e-6,
            ),
            combiner="mean",
        )

    return Program(
        name="two-tower",
        tables=(table("user", users), table("item", items)),
        features=(
            Feature("user", "user", Ids("user", users)),
            Feature("history", "item", Lists(Ids("history", items), history)),
            Feature("item", "item", Ids("item", items)),
        ),
        dense=(Number("item", mean=-1.0), log_share),
        label="label",
        model=TwoTowers(),
        optimizer=optax.adam(optax.linear_schedule(learning_rate, 0.0, total_steps)),
        loss=ClickedRows(),
        ranking=Ranking(tuple(cutoffs)),
        scoring="score",
        prepare_data=lambda: log.address,
    )
