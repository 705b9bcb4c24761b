"""Preprocessing against jax-tpu-embedding's, in one run, in turns.

    uv run python -m benchmarks.preprocess

Prints markdown: CPU and wall time of both, their ratios, the bytes of a batch's buffers and what a
steady stream of batches allocates. ``EMBERAY_PREPROCESSING_THREADS`` sets our threads.
"""

from __future__ import annotations

import argparse
import resource

import jax

from benchmarks.preprocess_workloads import WORKLOADS, Placed, arrow, ragged
from benchmarks.timing import markdown_table, measure
from kernels.preprocessing.native_engine import counters

HEADER = ["workload", "devices", "input", "CPU ms", "wheel", "ratio", "wall ms", "wheel", "ratio"]


def compare(rounds: int) -> list[list[object]]:
    """One row for every workload, number of devices and form of input."""
    rows: list[list[object]] = []
    for workload in WORKLOADS:
        ids, gains = workload.dense
        rows_of_ids, rows_of_gains = ragged(ids), ragged(gains)
        forms = {
            "dense": (ids, gains, ids, gains),
            "ragged": (rows_of_ids, rows_of_gains, rows_of_ids, rows_of_gains),
            "Arrow": (arrow(ids), arrow(gains), rows_of_ids, rows_of_gains),
        }
        for devices in (1, 4):
            placed = Placed.of(workload, devices)
            for form, (our_ids, our_gains, their_ids, their_gains) in forms.items():
                times = measure(
                    {
                        "ours": placed.run_ours(our_ids, our_gains),
                        "theirs": placed.run_theirs(their_ids, their_gains),
                    },
                    rounds=rounds,
                )
                ours, theirs = times["ours"], times["theirs"]
                row: list[object] = [workload.name, devices, form]
                for mine, other in ((ours.cpu, theirs.cpu), (ours.wall, theirs.wall)):
                    row += [1e3 * mine, 1e3 * other, mine / other]
                rows.append(row)
    return rows


def buffer_bytes(devices: int = 8) -> int:
    """Bytes of a batch's buffers of the second workload, with limits that fit it."""
    placed = Placed.of(WORKLOADS[1], devices)
    batch, _ = placed.run_ours(*WORKLOADS[1].dense)()
    return sum(array.nbytes for array in jax.tree.leaves(batch))


def allocations(batches: int = 200) -> dict[str, int]:
    """What that many batches allocate once two have been seen, two being held at a time."""
    run = Placed.of(WORKLOADS[1], 4).run_ours(*WORKLOADS[1].dense)
    held = [run(), run(), run()]
    held = held[1:]
    before, memory = counters(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(batches):
        held = [held[1], run()]
    after, more = counters(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "batches": batches,
        "blocks allocated": after["blocks_allocated"] - before["blocks_allocated"],
        "blocks used again": after["blocks_reused"] - before["blocks_reused"],
        "scratch bytes added": after["scratch_bytes"] - before["scratch_bytes"],
        "peak resident KiB added": more - memory,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=25, help="measurements of each")
    arguments = parser.parse_args()
    print(markdown_table(HEADER, compare(arguments.rounds)))
    print(f"\nThreads: {counters()['threads']}.")
    mib = buffer_bytes() / 2**20
    print(f"\nBuffers of a batch of '{WORKLOADS[1].name}' on 8 devices: {mib:.1f} MiB.")
    print("\n" + markdown_table(["steady state", ""], [[k, v] for k, v in allocations().items()]))


if __name__ == "__main__":
    main()
