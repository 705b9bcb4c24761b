"""Will a flight arrive more than 15 minutes late? Known before departure, from New York, in 2013.

The program that runs when nothing else is named. It shows what a program is made of; copy it for
data of your own. What helps most here is the weather at the origin, and crosses of carrier, route
and hour.
"""

from __future__ import annotations

import jax
import optax

from kernels import AdagradOptimizerSpec, TableSpec
from workers.data.flights import prepare_flights
from workers.data.transforms import Hashed, Ids, IdTransform, Number, Tags
from workers.program import BinaryCrossEntropy, Feature, Program
from workers.programs.dlrm import RankingModel

__all__ = ["program"]

FEATURES: dict[str, IdTransform] = {
    "carrier": Hashed(("carrier",), 64),
    "origin": Hashed(("origin",), 16),
    "dest": Hashed(("dest",), 512),
    "tailnum": Hashed(("tailnum",), 8192),
    "flight": Hashed(("carrier", "flight"), 16384),
    "model": Hashed(("manufacturer", "model"), 512),
    "month": Ids("month", 13),
    "weekday": Ids("weekday", 7),
    "hour": Ids("hour", 24),
    "origin_hour": Hashed(("origin", "hour"), 256),
    "carrier_hour": Hashed(("carrier", "hour"), 2048),
    "carrier_origin": Hashed(("carrier", "origin"), 256),
    "route": Hashed(("origin", "dest"), 1024),
    "carrier_route": Hashed(("carrier", "origin", "dest"), 2048),
    "weekday_hour": Hashed(("weekday", "hour"), 512),
    "dest_hour": Hashed(("dest", "hour"), 4096),
    "calendar": Tags("calendar_tags", 128, valency=12),
    "weather": Tags("weather_tags", 64, valency=16),
}
"""Embedding features; each has a table of its own. The last two hold several ids a sample."""

DENSE = (
    Number("sched_dep_minutes", 814.0, 281.0),
    Number("sched_arr_minutes", 931.0, 299.0),
    Number("sched_elapsed_minutes", 188.0, 96.0),
    Number("distance", 6.69, 0.77, log=True),
    Number("scheduled_departures", 20.5, 5.93),
    Number("plane_year", 2000.0, 5.86),
    Number("plane_year_known", 0.837, 0.37),
    Number("seats", 139.0, 66.4),
    Number("plane_known", 0.852, 0.355),
    Number("temp", 56.6, 18.0),
    Number("dewp", 41.0, 19.4),
    Number("humid", 58.9, 19.5),
    Number("wind_sin", -0.221, 0.643),
    Number("wind_cos", 0.015, 0.692),
    Number("wind_speed", 11.1, 5.55),
    Number("wind_gust", 13.2, 8.31),
    Number("pressure", 1020.0, 7.5),
    Number("visib", 9.29, 1.99),
    Number("visib_6h", 8.74, 2.62),
    Number("region_visib", 8.64, 2.75),
    Number("precip", 0.00383, 0.0247, log=True),
    Number("precip_6h", 0.0208, 0.0862, log=True),
    Number("region_precip", 0.0165, 0.0718, log=True),
)
"""Dense columns, standardised by mean and deviation of the training split."""


def program(
    embedding_dim: int = 16,
    table_learning_rate: float = 0.05,
    learning_rate: float = 1e-3,
    activation_penalty: float = 5e-3,
    initial_accumulator: float = 1e-4,
    initial_deviation: float = 0.01,
    cross_layers: int = 2,
    cross_rank: int = 32,
    hidden: tuple[int, ...] = (128, 64),
    total_steps: int = 1,
) -> Program:
    """The flights program; both learning rates fall linearly to 0 over the run.

    Args:
        embedding_dim: Width of all tables.
        table_learning_rate: Of Adagrad, for the tables.
        learning_rate: Of Adam, for the rest of the model.
        activation_penalty: Weight of the activations' squares in the loss.
        initial_accumulator: Of Adagrad.
        initial_deviation: Standard deviation of the tables' first values.
        cross_layers: See ``RankingModel``.
        cross_rank: See ``RankingModel``.
        hidden: See ``RankingModel``.
        total_steps: Steps of the run.
    """
    optimizer = AdagradOptimizerSpec(
        learning_rate=optax.linear_schedule(table_learning_rate, 0.0, total_steps),
        initial_accumulator_value=initial_accumulator,
    )
    initializer = jax.nn.initializers.normal(initial_deviation)
    tables = tuple(
        TableSpec(
            name=name,
            vocabulary_size=transform.vocabulary_size,
            embedding_dim=embedding_dim,
            initializer=initializer,
            optimizer=optimizer,
            combiner="mean",
        )
        for name, transform in FEATURES.items()
    )
    return Program(
        name="flights",
        tables=tables,
        features=tuple(Feature(name, name, transform) for name, transform in FEATURES.items()),
        dense=DENSE,
        label="late",
        model=RankingModel(cross_layers, cross_rank, tuple(hidden)),
        optimizer=optax.adam(optax.linear_schedule(learning_rate, 0.0, total_steps)),
        loss=BinaryCrossEntropy(activation_penalty),
        prepare_data=prepare_flights,
    )
