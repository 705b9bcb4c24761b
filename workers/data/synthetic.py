"""A synthetic click log, made while it is read: of any size, without a disk.

    synthetic                                        the default log
    synthetic:rows=50000000,users=1000000,seed=7     what differs from it: see ``ClickLog``

Every row is a pure function of (seed, split, shard, row): the words of Philox (Salmon et al.,
"Parallel random numbers: as easy as 1, 2, 3", 2011) with key (seed, split and shard) from counter
``row * words / 4`` on. So any host makes any shard alone, and the rows do not depend on how many
hosts there are. ``workers.data.click_truth`` says how likely each row is a click.

    user, item     Zipf ids                    history    list of 0 to ``history`` items, Zipf too
    hour           0 to 23, uniform            price, age floats of mean 0 and variance 1
    label          1: a click
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from workers.data.click_truth import BestPossible, best_possible, click_probability
from workers.data.dataset import Dataset, RowGroup
from workers.data.examples import Examples, Schema
from workers.data.transforms import Ids, InvalidValue, Lists
from workers.errors import DataError

__all__ = [
    "HOURS",
    "ClickLog",
    "best_of",
    "check_synthetic",
    "is_synthetic",
    "open_synthetic",
    "read_synthetic",
    "synthetic_table",
]

HOURS = 24
_SCHEMA = pa.schema(
    [
        ("user", pa.int32()),
        ("item", pa.int32()),
        ("hour", pa.int32()),
        ("history", pa.list_(pa.int32())),
        ("price", pa.float32()),
        ("age", pa.float32()),
        ("label", pa.int8()),
    ]
)
_SPLITS = {"train": 0, "test": 1, "truth": 2}
"""Numbers of the splits in the key; ``truth`` is what the best AUC is computed on."""

_SINGLE_WORDS = 7
_TRUTH_PARTS = 16


def is_synthetic(data: str | Path) -> bool:
    """Whether this names a synthetic log, or a split of one."""
    return re.match(r"synthetic([:/]|$)", str(data)) is not None


@dataclass(frozen=True)
class ClickLog:
    """A synthetic click log.

    Attributes:
        rows: Rows to train on.
        test_rows: Rows to evaluate on; 0 for none.
        users: Users have the ids below this.
        items: Items likewise.
        history: Most past items of a row.
        skew: Exponent of the Zipf distribution of users and items; 0 makes all alike.
        seed: Of the rows and of the truth.
        shard_rows: Rows made at a time: what a file's row group is.

    Example:
        >>> ClickLog.parse("synthetic:rows=1000,users=50").users
        50
    """

    rows: int = 1_000_000
    test_rows: int = 100_000
    users: int = 20_000
    items: int = 5_000
    history: int = 8
    skew: float = 1.05
    seed: int = 0
    shard_rows: int = 16_384

    def __post_init__(self) -> None:
        least = {"test_rows": 0, "skew": 0, "seed": 0}
        most = {"seed": 2**64 - 1, "users": 2**31 - 1, "items": 2**31 - 1, "history": 10_000}
        for field in fields(self):
            value = getattr(self, field.name)
            low, high = least.get(field.name, 1), most.get(field.name, 2**48)
            if not low <= value <= high:
                raise DataError(
                    f"synthetic data: {field.name} is {value}; give a number from {low} to {high}"
                )

    @property
    def address(self) -> str:
        """What ``parse`` reads: all that differs from the defaults."""
        told = [
            f"{field.name}={getattr(self, field.name)}"
            for field in fields(self)
            if getattr(self, field.name) != field.default
        ]
        return ":".join(["synthetic", *([",".join(told)] if told else [])])

    @staticmethod
    def parse(address: str) -> ClickLog:
        """The log of an address.

        Raises:
            DataError: A setting is unknown or no number in its range.
        """
        kinds: dict[str, Any] = {f.name: type(f.default) for f in fields(ClickLog)}
        settings: dict[str, Any] = {}
        for setting in filter(None, address.partition(":")[2].split(",")):
            name, _, value = setting.partition("=")
            if name not in kinds:
                raise DataError(
                    f"data '{address}': there is no setting '{name}'; there are {', '.join(kinds)}"
                )
            try:
                settings[name] = kinds[name](value)
            except ValueError as error:
                raise DataError(
                    f"data '{address}': {name} is '{value}'; give a number, as in {name}=1000"
                ) from error
        return ClickLog(**settings)

    def rows_of(self, split: str) -> int:
        """Rows of a split; 0 if there is none of that name."""
        return {"train": self.rows, "test": self.test_rows}.get(split, 0)

    def table(self, split: str, shard: int, rows: int, first: int = 0) -> pa.Table:
        """Rows [first, first + rows) of a shard of a split."""
        return self._made(split, shard, rows, first)[0]

    def probabilities(self, split: str, shard: int, rows: int, first: int = 0) -> np.ndarray:
        """The true probability of a click of the same rows, float64 ``[rows]``."""
        return self._made(split, shard, rows, first)[1]

    def _made(self, split: str, shard: int, rows: int, first: int) -> tuple[pa.Table, np.ndarray]:
        words = -(-(_SINGLE_WORDS + self.history) // 4) * 4
        key = np.array([self.seed, _SPLITS[split] << 56 | shard], np.uint64)
        stream = np.random.Philox(key=key).advance(first * words // 4)
        # The raw words are the same in all versions of numpy; its distributions may change.
        raw = np.asarray(stream.random_raw(rows * words), np.uint64).reshape(rows, words)
        unit = (raw.T >> np.uint64(11)) * 2.0**-53
        user, item = _zipf(unit[0], self.users, self.skew), _zipf(unit[1], self.items, self.skew)
        hour = (unit[2] * HOURS).astype(np.int32)
        price, age = ((2 * unit[k] - 1) * np.sqrt(3.0) for k in (3, 4))
        lengths = (unit[5] * (self.history + 1)).astype(np.int32)
        history = _zipf(unit[7 : 7 + self.history].T, self.items, self.skew)
        probability = click_probability(
            self.seed,
            user=user,
            item=item,
            hour=hour,
            history=history,
            lengths=lengths,
            price=price,
            age=age,
        )
        held = history[np.arange(self.history) < lengths[:, None]]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        columns = [
            pa.array(user),
            pa.array(item),
            pa.array(hour),
            pa.ListArray.from_arrays(pa.array(offsets), pa.array(held)),
            pa.array(price.astype(np.float32)),
            pa.array(age.astype(np.float32)),
            pa.array((unit[6] < probability).astype(np.int8)),
        ]
        return pa.Table.from_arrays(columns, schema=_SCHEMA), probability


def _zipf(unit: np.ndarray, size: int, skew: float) -> np.ndarray:
    """int32 ids below ``size`` from uniform numbers in [0, 1), without a table.

    Id ``k`` has the chance ``∫ x^-skew dx`` from k + 1 to k + 2, over that from 1 to size + 1.
    """
    if abs(skew - 1) < 1e-9:
        place = np.exp(unit * np.log(size + 1.0))
    else:
        power = 1 - skew
        place = (1 + unit * ((size + 1.0) ** power - 1)) ** (1 / power)
    return np.minimum(place.astype(np.int64) - 1, size - 1).astype(np.int32)


def open_synthetic(address: str, split: str) -> Dataset:
    """The shards of a split as row groups.

    Raises:
        DataError: The address cannot be read, or there is no such split.
    """
    log = ClickLog.parse(address)
    rows = log.rows_of(split)
    if not rows:
        raise DataError(f"the '{split}' split of '{address}' has no rows")
    groups = tuple(
        RowGroup(f"{address}/{split}", shard, min(log.shard_rows, rows - first), first, name=split)
        for shard, first in enumerate(range(0, rows, log.shard_rows))
    )
    return Dataset(address, split, groups, _SCHEMA)


def check_synthetic(data: Dataset, schema: Schema) -> None:
    """Check that the program's columns and vocabularies are the log's.

    Raises:
        DataError: A column is missing or of another type, or a vocabulary is too small.
    """
    log = ClickLog.parse(str(data.path))
    sizes = {"user": log.users, "item": log.items, "history": log.items, "hour": HOURS}
    try:
        schema.check(data.schema)
        for name, transform in schema.features:
            ids = transform.of if isinstance(transform, Lists) else transform
            if isinstance(ids, Ids) and ids.size < sizes.get(ids.column, 0):
                raise DataError(
                    f"feature '{name}' takes ids below {ids.size}, but column '{ids.column}' has "
                    f"ids below {sizes[ids.column]}; give the program and the data the same number"
                )
    except DataError as error:
        raise DataError(f"data '{data.path}', split '{data.split}': {error}") from error


def synthetic_table(group: RowGroup) -> pa.Table:
    """All columns of one shard."""
    address, _, split = str(group.file).rpartition("/")
    return ClickLog.parse(address).table(split, group.index, group.rows)


def read_synthetic(group: RowGroup, schema: Schema) -> Examples:
    """Make one shard and transform it.

    Raises:
        DataError: The schema does not suit the values.
    """
    address, _, split = str(group.file).rpartition("/")
    table = synthetic_table(group)
    try:
        return schema.apply(table.select(sorted(schema.columns)))
    except InvalidValue as error:
        raise DataError(
            f"data '{address}', split '{split}', shard {group.index}, row {error.row}, "
            f"column '{error.column}': {error.problem}"
        ) from error


def best_of(data: str, rows: int = 1 << 18) -> BestPossible:
    """The best figures any model can reach on a log.

    Args:
        data: Its address.
        rows: Fresh rows of it to compute them from.
    """
    log = ClickLog.parse(data)
    share = rows // _TRUTH_PARTS
    return best_possible([log.probabilities("truth", part, share) for part in range(_TRUTH_PARTS)])
