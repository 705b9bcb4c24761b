"""The rivals of `benchmarks.data`, each in a Python of its own; imports nothing of this project.

    python data_rivals.py torch-rows|torch-columns|grain settings.json

Every one reads the same Parquet files, makes the same arrays of them (ids as they are, lists padded
with -1, logarithms standardised), shuffles, and forms batches. Prints rows per second as JSON, from
the first batch on, so that starting processes does not count.

    torch-rows      DataLoader over an IterableDataset of rows, with a shuffle buffer and torch's
                    own collation: how DataLoader is meant to be used
    torch-columns   DataLoader over an IterableDataset that works on whole row groups in numpy and
                    yields finished batches: as fast as one can make it
    grain           grain's own Parquet reader, map, window shuffle and batch
"""

from __future__ import annotations

import json
import random
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

PADDING = -1


def batches_seen(batches: Iterable[Any], rows_of: Any) -> dict[str, float]:
    """Rows per second between the first batch and the last; CPU time; a check sum of the labels.

    CPU seconds a million rows are those of all processes, worker processes being forked after the
    imports.
    """
    rows, clicks, started, all_rows, cpu = 0, 0.0, 0.0, 0, cpu_seconds()
    for number, batch in enumerate(batches):
        labels = rows_of(batch)
        clicks += float(np.asarray(labels).sum())
        all_rows += len(labels)
        if number == 0:
            started = time.perf_counter()
        else:
            rows += len(labels)
    seconds = time.perf_counter() - started
    return {
        "rows_per_second": rows / seconds,
        "cpu": 1e6 * (cpu_seconds() - cpu) / all_rows,
        "clicks": clicks,
    }


def cpu_seconds() -> float:
    """CPU time of this process, and of those it has started that have ended."""
    both = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(used.ru_utime + used.ru_stime for used in both)


def one_row(row: dict[str, Any], work: dict[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of one row."""
    padded = np.full(work["valency"], PADDING, np.int32)
    padded[: len(row["history"])] = row["history"]
    numbers = np.array([row[name] for name in work["numbers"]])
    made = {name: np.array([row[name]], np.int32) for name in work["ids"]}
    dense = (np.log1p(numbers) - work["mean"]) / work["scale"]
    return made | {
        "history": padded,
        "dense": dense.astype(np.float32),
        "label": np.float32(row["label"]),
    }


def row_group(table: Any, work: dict[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of all rows of a table."""
    made = {name: table[name].to_numpy().astype(np.int32)[:, None] for name in work["ids"]}
    lists = table["history"].combine_chunks()
    lengths = np.diff(lists.offsets.to_numpy())
    padded = np.full((len(lengths), work["valency"]), PADDING, np.int32)
    padded[np.arange(work["valency"]) < lengths[:, None]] = lists.flatten().to_numpy()
    numbers = np.stack([table[name].to_numpy() for name in work["numbers"]], axis=1)
    dense = ((np.log1p(numbers) - work["mean"]) / work["scale"]).astype(np.float32)
    label = table["label"].to_numpy().astype(np.float32)
    return made | {"history": padded, "dense": dense, "label": label}


def shares(work: dict[str, Any], worker: int, workers: int) -> Iterator[Any]:
    """Every so many-th row group of all files, in random order."""
    places = [
        (file, group)
        for file in work["files"]
        for group in range(pq.ParquetFile(file).num_row_groups)
    ]
    random.Random(0).shuffle(places)
    for file, group in places[worker::workers]:
        yield pq.ParquetFile(file).read_row_group(group, use_threads=False)


def torch_loader(kind: str, work: dict[str, Any]) -> Any:
    """The DataLoader of one kind."""
    import torch
    from torch.utils.data import DataLoader, IterableDataset, get_worker_info

    class Rows(IterableDataset):
        def __iter__(self) -> Iterator[Any]:
            info = get_worker_info()
            chosen, held = random.Random(info.id), []
            for table in shares(work, info.id, info.num_workers):
                for row in table.to_pylist():
                    held.append(one_row(row, work))
                    if len(held) > work["window"]:
                        place = chosen.randrange(len(held))
                        held[place], held[-1] = held[-1], held[place]
                        yield held.pop()
            chosen.shuffle(held)
            yield from held

    class Columns(IterableDataset):
        def __iter__(self) -> Iterator[Any]:
            info = get_worker_info()
            generator, left = np.random.default_rng(info.id), None
            for table in shares(work, info.id, info.num_workers):
                made = row_group(table, work)
                order = generator.permutation(len(made["label"]))
                made = {name: array[order] for name, array in made.items()}
                if left is not None:
                    made = {name: np.concatenate([left[name], made[name]]) for name in made}
                rows, size = len(made["label"]), work["batch"]
                for first in range(0, rows - size + 1, size):
                    yield {
                        name: torch.from_numpy(array[first : first + size])
                        for name, array in made.items()
                    }
                left = {name: array[rows - rows % size :] for name, array in made.items()}
            if left is not None and len(left["label"]):
                yield {name: torch.from_numpy(array) for name, array in left.items()}

    if kind == "torch-rows":
        return DataLoader(Rows(), batch_size=work["batch"], num_workers=work["workers"])
    return DataLoader(Columns(), batch_size=None, num_workers=work["workers"])


def grain_batches(work: dict[str, Any]) -> Any:
    """grain's pipeline over the files, in worker processes."""
    import grain.python as grain

    readers = [grain.experimental.ParquetIterDataset(file) for file in work["files"]]
    rows = grain.experimental.InterleaveIterDataset(readers, cycle_length=len(readers))
    rows = rows.map(lambda row: one_row(row, work))
    shuffled = grain.experimental.WindowShuffleIterDataset(rows, window_size=work["window"], seed=0)
    batches = shuffled.batch(work["batch"], drop_remainder=False)
    return batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=work["workers"]))


def main() -> None:
    """See the module."""
    kind, path = sys.argv[1:]
    work = json.loads(Path(path).read_text())
    batches = grain_batches(work) if kind == "grain" else torch_loader(kind, work)
    print(json.dumps(batches_seen(batches, lambda batch: batch["label"])))


if __name__ == "__main__":
    main()
