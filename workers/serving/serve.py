"""Predict with the model in this folder. Needs Python, jax and numpy; nothing else.

    import serve
    model = serve.load("FOLDER")
    model.predict({"user": ["u1", "u2"], "price": [3.5, 4.0]})         # columns, as in the data
    model.score({"user": np.array([[7], [9]])}, dense)                 # ids, if you have them

    python serve.py columns.json        # {"user": ["u1", "u2"], …}; prints the predictions

``serving.json`` says which columns, features and tables there are. Values are given as the data
has them: strings as str, whole numbers as int, lists as lists, moments as datetime or as integers,
and None for nulls. What was refused in training is refused here, with a ValueError.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

__all__ = ["Columns", "Encoder", "Model", "hash_values", "load", "mix", "read_arrays"]

NO_ID = -1
_TYPES = {"F64": "f8", "F32": "f4", "F16": "f2", "I64": "i8", "I32": "i4", "BOOL": "?"}
_TYPES |= {"U64": "u8", "U32": "u4"}

type Columns = Mapping[str, Sequence[Any]]
type Told = Mapping[str, Any]
"""What serving.json says of a transform."""


def read_arrays(file: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file, by name; read from the disk when they are used."""
    with Path(file).open("rb") as source:
        (length,) = struct.unpack("<Q", source.read(8))
        header = json.loads(source.read(length))
    header.pop("__metadata__", None)
    arrays = {}
    for name, told in header.items():
        kind = np.dtype(jnp.bfloat16 if told["dtype"] == "BF16" else _TYPES[told["dtype"]])
        place, shape = 8 + length + told["data_offsets"][0], tuple(told["shape"])
        nothing = 0 in shape
        arrays[name] = (
            np.zeros(shape, kind) if nothing else np.memmap(file, kind, "r", place, shape)
        )
    return arrays


def load(folder: str | Path, device: Any = None) -> Model:
    """Load a folder's model onto a device, the first one by default."""
    return Model(Path(folder), device)


class Model:
    """A model with its tables.

    Args:
        folder: The folder that was exported.
        device: A device of JAX; None takes the first.

    Attributes:
        about: What ``serving.json`` says.
    """

    def __init__(self, folder: Path, device: Any = None) -> None:
        if find_spec("flatbuffers") is None:  # which jax.export reads with
            sys.path.append(str(folder.resolve() / "vendor"))
        self.about: dict[str, Any] = json.loads((folder / "serving.json").read_text("utf-8"))
        self._encoder = Encoder(self.about, read_arrays(folder / "transforms.safetensors"))
        self._weights = tuple(
            {name: jax.device_put(np.asarray(array), device) for name, array in arrays.items()}
            for arrays in (
                read_arrays(folder / "tables.safetensors"),
                read_arrays(folder / "parameters.safetensors"),
            )
        )
        self._functions = {
            name: jax.jit(export.deserialize(bytearray((folder / told["file"]).read_bytes())).call)
            for name, told in self.about["functions"].items()
        }

    def score(
        self, ids: Mapping[str, Any], dense: Any, function: str | None = None
    ) -> dict[str, np.ndarray]:
        """Columns of predictions, of ids.

        Args:
            ids: By feature, int32 ``[n, valency]``; -1 is no id.
            dense: float32 ``[n, dense columns]``.
            function: Name of a function, for folders that hold several; the first by default.
        """
        chosen = self._functions[function or next(iter(self._functions))]
        said = chosen(*self._weights, dict(ids), dense)
        return {name: np.asarray(values) for name, values in said.items()}

    def predict(self, columns: Columns, function: str | None = None) -> dict[str, np.ndarray]:
        """Columns of predictions, of columns as the data has them.

        Batches are filled up to a power of two, so that few sizes are compiled.
        """
        ids, dense = self.encode(columns)
        rows = len(dense)
        size = self.about["batch"] or 1 << max(0, rows - 1).bit_length()
        made = []
        for first in range(0, rows, size):
            part = slice(first, first + size)
            of_part = {name: _filled(values[part], size, NO_ID) for name, values in ids.items()}
            made.append(self.score(of_part, _filled(dense[part], size, 0), function))
        return {name: np.concatenate([part[name] for part in made])[:rows] for name in made[0]}

    def encode(self, columns: Columns) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Ids and dense columns: what ``score`` takes.

        Raises:
            ValueError: A column is missing, or holds a value that the model cannot take.
        """
        return self._encoder.encode(columns)


class Encoder:
    """Columns to ids and dense numbers.

    Args:
        about: What ``serving.json`` says.
        arrays: Hashes of vocabularies, and counts.
    """

    def __init__(self, about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self._about = about
        self.arrays = arrays
        self._sorted: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def encode(self, columns: Columns) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """See ``Model.encode``."""
        rows = len(next(iter(columns.values()), ()))
        if not rows or any(len(values) != rows for values in columns.values()):
            raise ValueError("give columns of the same number of rows, and at least one row")
        ids = {
            feature["name"]: self.made(feature["transform"], columns)
            .astype(np.int32)
            .reshape(rows, feature["valency"])
            for feature in self._about["features"]
        }
        dense = np.zeros((rows, len(self._about["dense"])), np.float32)
        for place, one in enumerate(self._about["dense"]):
            dense[:, place] = self.made(one["transform"], columns)
        return ids, dense

    def made(self, told: Told, columns: Columns) -> np.ndarray:
        """What a transform makes of columns."""
        for name in [told["column"]] if "column" in told else told.get("columns", ()):
            if name not in columns:
                raise ValueError(f"column '{name}' is missing; there are {', '.join(columns)}")
        return _MAKERS[told["kind"]](self, told, columns)

    def find(self, told: Told, values: Sequence[Any]) -> np.ndarray:
        """Places of values in a vocabulary; -1 for one that is not there."""
        name = told["values"]
        if name not in self._sorted:
            hashes = np.asarray(self.arrays[name])
            order = np.argsort(hashes)
            self._sorted[name] = hashes[order], order
        hashes, order = self._sorted[name]
        wanted = hash_values(values, told["seed"])
        near = np.minimum(np.searchsorted(hashes, wanted), len(hashes) - 1)
        return np.where(hashes[near] == wanted, order[near], NO_ID)


# Transforms. Each takes the encoder, what serving.json says of it, and the columns.


def _given(_: Encoder, told: Told, columns: Columns) -> np.ndarray:
    return np.asarray(columns[told["column"]])


def _ids(_: Encoder, told: Told, columns: Columns) -> np.ndarray:
    values, nulls = _column(told, columns)
    numbers = np.array([0 if value is None else value for value in values], np.int64)
    _refuse(told, values, (numbers < 0) | (numbers >= told["size"]), "outside the vocabulary")
    return _marked(told, numbers, nulls, told["size"])


def _hashed(_: Encoder, told: Told, columns: Columns) -> np.ndarray:
    mixed, absent = np.array([told["start"]], np.uint64), np.zeros(1, bool)
    for name in told["columns"]:
        values, nulls = _column({**told, "column": name}, columns)
        mixed = mix(mixed * _GOLDEN + hash_values(values, told["seed"]))
        absent = absent | nulls
    return _marked(told, mixed % np.uint64(told["buckets"]), absent, told["buckets"])


def _vocabulary(encoder: Encoder, told: Told, columns: Columns) -> np.ndarray:
    values, nulls = _column(told, columns)
    places, rows, unknown = encoder.find(told, values), told["known"], told["unknown"]
    strange = (places < 0) & ~nulls
    if unknown == "refuse":
        _refuse(told, values, strange, "not in the vocabulary")
    elif unknown != "skip":
        rest = [value for value, is_strange in zip(values, strange, strict=True) if is_strange]
        places[strange] = (rows + hash_values(rest, 0) % np.uint64(unknown)).astype(np.int64)
        rows += unknown
    return _marked(told, places, nulls, rows)


def _buckets(_: Encoder, told: Told, columns: Columns) -> np.ndarray:
    numbers, nulls = _numbers(told, columns, takes_nulls=told["missing"] != "refuse")
    ids = np.searchsorted(np.array(told["boundaries"], np.float64), numbers, side="right")
    return _marked(told, ids, nulls, len(told["boundaries"]) + 1)


def _time(_: Encoder, told: Told, columns: Columns) -> np.ndarray:
    values, nulls = _column(told, columns)
    moments = np.array([_moment(value, told["unit"]) for value in values], "M8[us]")
    days, months = moments.astype("M8[D]"), moments.astype("M8[M]")
    ids, rows = {
        "hour": ((moments - days) // np.timedelta64(1, "h"), 24),
        "weekday": ((days.astype(np.int64) + 3) % 7, 7),  # 1970 began on a Thursday
        "day": ((days - months.astype("M8[D]")) // np.timedelta64(1, "D") + 1, 32),
        "month": (months.astype(np.int64) % 12 + 1, 13),
    }[told["part"]]
    return _marked(told, ids, nulls, rows)


def _crossed(encoder: Encoder, told: Told, columns: Columns) -> np.ndarray:
    parts = [encoder.made(part, columns).reshape(-1).astype(np.int64) for part in told["parts"]]
    absent = np.any([part < 0 for part in parts], axis=0)
    mixed, number = np.array([told["seed"]], np.uint64), np.zeros(1, np.int64)
    for part, size in zip(parts, told["sizes"], strict=True):
        number = number * size + part
        mixed = mix(mixed * _GOLDEN + part.astype(np.uint64))
    if told["buckets"] is not None:
        number = (mixed % np.uint64(told["buckets"])).astype(np.int64)
    return np.where(absent, NO_ID, number)


def _lists(encoder: Encoder, told: Told, columns: Columns) -> np.ndarray:
    lists, _ = _column(told, columns)
    most, kept = told["valency"], [[] if one is None else list(one) for one in lists]
    if told["cut"] == "refuse":
        _refuse(told, kept, np.array([len(one) > most for one in kept]), f"longer than {most}")
    kept = [one[-most:] if told["cut"] == "start" else one[:most] for one in kept]
    flat, lengths = [value for one in kept for value in one], np.array([len(one) for one in kept])
    padded = np.full((len(kept), most), NO_ID, np.int64)
    if flat:
        ids = encoder.made(told["of"], {told["column"]: flat}).reshape(-1)
        padded[np.arange(most) < lengths[:, None]] = ids
    return padded


def _separated(encoder: Encoder, told: Told, columns: Columns) -> np.ndarray:
    lists = [
        None if text is None else [part for part in text.split(told["separator"]) if part]
        for text in columns[told["column"]]
    ]
    return encoder.made(told["of"], {told["column"]: lists})


def _number(_: Encoder, told: Told, columns: Columns) -> np.ndarray:
    clip = told["least"], told["most"]
    numbers, nulls = _numbers(told, columns, takes_nulls=told["missing"] is not None, clip=clip)
    numbers = np.where(nulls, told["missing"] or 0.0, numbers)
    if told["log"]:
        _refuse(told, numbers, numbers <= -1, "too small for a logarithm of 1 + value")
        numbers = np.log1p(numbers)
    return ((numbers - told["mean"]) / told["scale"]).astype(np.float32)


def _log_share(encoder: Encoder, told: Told, columns: Columns) -> np.ndarray:
    values, _ = _column({**told, "missing": "refuse"}, columns)
    counts, places = np.asarray(encoder.arrays[told["counts"]]), encoder.find(told, values)
    return np.log(np.where(places >= 0, counts[places], 1.0) / counts.sum()).astype(np.float32)


_MAKERS: dict[str, Callable[[Encoder, Told, Columns], np.ndarray]] = {
    "given": _given,
    "ids": _ids,
    "hashed": _hashed,
    "vocabulary": _vocabulary,
    "buckets": _buckets,
    "time": _time,
    "crossed": _crossed,
    "lists": _lists,
    "separated": _separated,
    "number": _number,
    "log_share": _log_share,
}

# What they share.


def _column(told: Told, columns: Columns) -> tuple[Sequence[Any], np.ndarray]:
    """Values of a column, and where nulls are."""
    values = [None if value is None else value for value in columns[told["column"]]]
    return values, _nulls(told, values)


def _nulls(told: Told, values: Sequence[Any]) -> np.ndarray:
    nulls = np.array([value is None for value in values], bool)
    if told.get("missing") == "refuse":
        _refuse(told, values, nulls, "null, which the model does not take")
    return nulls


def _numbers(
    told: Told,
    columns: Columns,
    *,
    takes_nulls: bool,
    clip: tuple[float | None, float | None] = (None, None),
) -> tuple[np.ndarray, np.ndarray]:
    """Finite float64, and where a number is missing; NaN is missing where nulls are taken."""
    values = columns[told["column"]]
    numbers = np.array([np.nan if value is None else value for value in values], np.float64)
    nulls = np.isnan(numbers) if takes_nulls else np.zeros(len(numbers), bool)
    numbers = np.where(nulls, 0.0, numbers)
    if clip != (None, None):
        numbers = np.clip(numbers, *clip)
    _refuse(told, values, ~np.isfinite(numbers), "not a finite number")
    return numbers, nulls


def _refuse(told: Told, values: Sequence[Any] | np.ndarray, wrong: np.ndarray, why: str) -> None:
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(f"column '{told.get('column')}', row {row}: {values[row]!r} is {why}")


def _marked(told: Told, ids: np.ndarray, nulls: np.ndarray, rows: int) -> np.ndarray:
    """Ids with that of nulls: the one after the last, or none."""
    return np.where(nulls, rows if told["missing"] == "own" else NO_ID, ids.astype(np.int64))


def _moment(value: Any, unit: Any) -> np.datetime64:
    if value is None:
        return np.datetime64(0, "us")
    if isinstance(value, int | np.integer):
        return np.datetime64(int(value), unit)
    if isinstance(value, datetime) and value.tzinfo is not None:
        value = value.astimezone(UTC).replace(tzinfo=None)
    return np.datetime64(value)


def _filled(values: np.ndarray, rows: int, filler: int) -> np.ndarray:
    missing = rows - len(values)
    return np.pad(values, ((0, missing), (0, 0)), constant_values=filler) if missing else values


# Hashes of 64 bits: the finaliser of SplitMix64, over words of 8 bytes.

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64, of uint64 ``[n]``."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        values = (values ^ (values >> np.uint64(shift))) * np.uint64(factor)
    return values


def hash_values(values: Sequence[Any], seed: int) -> np.ndarray:
    """Hashes of whole numbers, or of strings or bytes: uint64 ``[n]``; of None, anything."""
    start = np.array([seed], np.uint64)
    kinds = {isinstance(value, str | bytes) for value in values if value is not None}
    if kinds <= {False}:
        bits = [0 if value is None else int(value) & 0xFFFFFFFFFFFFFFFF for value in values]
        return mix(np.array(bits, np.uint64) + start * _GOLDEN)
    if kinds != {True}:
        raise ValueError("a column holds strings beside numbers; give all as the data has them")
    texts = [b"" if v is None else v.encode() if isinstance(v, str) else v for v in values]
    lengths = np.array([len(text) for text in texts], np.uint64)
    counts = np.array([max(1, -(-len(text) // 8)) for text in texts])
    filled = b"".join(t.ljust(8 * n, b"\0") for t, n in zip(texts, counts.tolist(), strict=True))
    words, starts = np.frombuffer(filled, "<u8"), np.cumsum(counts) - counts
    place = (np.arange(len(words)) - np.repeat(starts, counts) + 1).astype(np.uint64)
    mixed = mix((words ^ mix(start + _GOLDEN)) + place * _GOLDEN)
    return mix(lengths * _GOLDEN + np.add.reduceat(mixed, starts))


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    answer = load(Path(__file__).parent).predict(given)
    print(json.dumps({name: values.tolist() for name, values in answer.items()}))
