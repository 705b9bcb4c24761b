r"""Will a user click? On the synthetic click log, whose best possible AUC is known.

    python -m orchestrator train program=workers.programs.clicks:program
    python -m orchestrator train program=workers.programs.clicks:program \
        parameters.rows=50000000 parameters.users=1000000

The history looks up its items in the table of the item itself. See ``workers.data.synthetic``.
"""

from __future__ import annotations

import jax
import optax

from kernels import AdagradOptimizerSpec, TableSpec
from workers.data.synthetic import HOURS, ClickLog
from workers.data.transforms import Ids, Lists, Number
from workers.program import BinaryCrossEntropy, Feature, Program
from workers.programs.dlrm import RankingModel

__all__ = ["program"]


def program(
    rows: int = 1_000_000,
    test_rows: int = 100_000,
    users: int = 20_000,
    items: int = 5_000,
    history: int = 8,
    skew: float = 1.05,
    data_seed: int = 0,
    shard_rows: int = 16_384,
    embedding_dim: int = 16,
    table_learning_rate: float = 0.4,
    learning_rate: float = 1e-2,
    activation_penalty: float = 1e-6,
    hidden: tuple[int, ...] = (64, 32),
    total_steps: int = 1,
) -> Program:
    """The click program; both learning rates fall linearly to 0 over the run.

    Args:
        rows: See ``ClickLog``, as for all up to ``shard_rows``.
        test_rows: Rows to evaluate on.
        users: Number of users.
        items: Number of items.
        history: Most past items of a row.
        skew: Exponent of the Zipf distributions.
        data_seed: Seed of the log.
        shard_rows: Rows made at a time.
        embedding_dim: Width of all tables.
        table_learning_rate: Of Adagrad, for the tables.
        learning_rate: Of Adam, for the rest of the model.
        activation_penalty: Weight of the activations' squares in the loss.
        hidden: See ``RankingModel``.
        total_steps: Steps of the run.
    """
    log = ClickLog(rows, test_rows, users, items, history, skew, data_seed, shard_rows)
    optimizer = AdagradOptimizerSpec(
        learning_rate=optax.linear_schedule(table_learning_rate, 0.0, total_steps),
        initial_accumulator_value=1e-4,
    )

    def table(name: str, vocabulary: int) -> TableSpec:
        return TableSpec(
            name=name,
            vocabulary_size=vocabulary,
            embedding_dim=embedding_dim,
            initializer=jax.nn.initializers.normal(0.01),
            optimizer=optimizer,
            combiner="mean",
        )

    return Program(
        name="clicks",
        tables=(table("user", users), table("item", items), table("hour", HOURS)),
        features=(
            Feature("user", "user", Ids("user", users)),
            Feature("item", "item", Ids("item", items)),
            Feature("hour", "hour", Ids("hour", HOURS)),
            Feature("history", "item", Lists(Ids("history", items), history)),
        ),
        dense=(Number("price"), Number("age")),
        label="label",
        model=RankingModel(2, None, tuple(hidden)),
        optimizer=optax.adam(optax.linear_schedule(learning_rate, 0.0, total_steps)),
        loss=BinaryCrossEntropy(activation_penalty),
        prepare_data=lambda: log.address,
    )
