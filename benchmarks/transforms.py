"""CPU nanoseconds per value of every transform: the table of ``docs/transforms.md``.

    python benchmarks/transforms.py [--rows 500000] [--repeats 5]

Each line is the best of several runs over one Arrow table in memory. Beside the transforms stand
the ways one would take without them: BLAKE2b in a Python loop, and ``pyarrow.compute.index_in``.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from workers.data.transforms import (
    Buckets,
    Crossed,
    Hashed,
    Ids,
    Lists,
    Number,
    Tags,
    ValueCounter,
    ValueSet,
    Vocabulary,
)


def table_of(rows: int) -> pa.Table:
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 2**32, rows)
    lengths = np.concatenate([[0], np.cumsum(rng.integers(0, 9, rows))])
    tags = pa.array([f"tag{number}" for number in rng.integers(0, 1000, lengths[-1])])
    words = pa.array([f"{number:08x}" for number in numbers])
    few = pa.array([f"city-{number:04d}-of-many" for number in rng.integers(0, 1000, rows)])
    return pa.table(
        {
            "small": rng.integers(0, 1000, rows),
            "wide": numbers,
            "hex": words,
            "path": pa.array([f"/items/{number}/by/{number % 977:08d}/page" for number in numbers]),
            "city": few,
            "encoded": few.dictionary_encode(),
            "value": rng.exponential(size=rows),
            "gaps": pa.array(rng.exponential(size=rows), mask=rng.random(rows) < 0.1),
            "tags": pa.ListArray.from_arrays(pa.array(lengths, pa.int32()), tags),
        }
    )


def best(run: Callable[[], object], values: int, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times) / values * 1e9


def blake2b(column: pa.ChunkedArray) -> list[int]:
    return [
        int.from_bytes(hashlib.blake2b(value.encode(), digest_size=8).digest(), "little")
        for value in column.to_pylist()
    ]


def counted(column: pa.ChunkedArray) -> pa.Table:
    counter = ValueCounter()
    counter.add(column)
    return counter.counts()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    pa.set_cpu_count(1)
    table = table_of(options.rows)
    listed = len(table.column("tags").combine_chunks().values)
    cities = ValueSet([f"city-{number:04d}-of-many" for number in range(900)])
    million = ValueSet([f"{number:08x}" for number in range(1_000_000)])
    numbers = ValueSet(pa.array(np.arange(900)))
    tags = ValueSet([f"tag{number}" for number in range(900)])
    boundaries = tuple(np.linspace(0, 5, 31).tolist())
    cut = Buckets("value", boundaries)
    transforms = [
        ("Ids", Ids("small", 1000), 0),
        ("Hashed, integers", Hashed(("wide",), 10**6), 0),
        ("Hashed, strings of 8 bytes", Hashed(("hex",), 10**6), 0),
        ("Hashed, strings of 17 bytes", Hashed(("city",), 10**6), 0),
        ("Hashed, strings of 40 bytes", Hashed(("path",), 10**6), 0),
        ("Hashed, dictionary-encoded", Hashed(("encoded",), 10**6), 0),
        ("Hashed, cross of 3 columns", Hashed(("wide", "hex", "encoded"), 10**6), 0),
        ("Vocabulary of 900 integers", Vocabulary("small", numbers), 0),
        ("Vocabulary of 900 strings", Vocabulary("city", cities), 0),
        ("Vocabulary of 900, dictionary-encoded", Vocabulary("encoded", cities), 0),
        ("Vocabulary of 1,000,000 strings", Vocabulary("hex", million), 0),
        ("Buckets, 31 boundaries", cut, 0),
        ("Crossed, exact", Crossed((cut, Ids("small", 1000))), 0),
        ("Crossed, hashed", Crossed((cut, Ids("small", 1000)), 10**4), 0),
        ("Tags, of 4 on average", Tags("tags", 10**4, 8), listed),
        ("Tags, cut to 4", Tags("tags", 10**4, 4, cut="end"), listed),
        ("Lists of Vocabulary", Lists(Vocabulary("tags", tags), 8), listed),
        ("Number", Number("value", 1.0, 1.0), 0),
        ("Number, log and clipped", Number("value", 1.0, 1.0, log=True, least=0.0), 0),
        ("Number, a tenth missing", Number("gaps", 1.0, 1.0, missing=0.0), 0),
    ]
    rivals = [
        ("BLAKE2b in a Python loop, 8 bytes", lambda: blake2b(table.column("hex")), 1),
        (
            "pyarrow index_in, 1,000,000 strings",
            lambda: pc.index_in(table.column("hex"), value_set=million.values.cast(pa.string())),
            1,
        ),
        ("ValueCounter, 1000 distinct", lambda: counted(table.column("city")), 2),
        ("ValueCounter, all distinct", lambda: counted(table.column("hex")), 1),
    ]
    print(f"{'':42}{'ns per value':>14}")
    for name, transform, values in transforms:
        transform.check(table.schema)
        transform.apply(table)  # builds the index of a vocabulary
        taken = best(lambda t=transform: t.apply(table), values or options.rows, options.repeats)
        print(f"{name:42}{taken:14.1f}", flush=True)
    for name, run, repeats in rivals:
        print(f"{name:42}{best(run, options.rows, repeats):14.1f}", flush=True)


if __name__ == "__main__":
    main()
