"""What ``plan`` found, in tables and as plain values."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from orchestrator.plan_figures import PlanFigures
from orchestrator.quantities import seconds_text, size_text
from orchestrator.step_time import MEASURED

__all__ = ["as_values", "report"]

_PARTS = {
    "tables": "tables",
    "slots": "slot variables",
    "input_buffers": "ids of a batch",
    "activations": "activations",
    "gradients": "their gradients",
    "exchange": "exchange",
    "total": "together",
}
"""What takes a device's memory, by attribute of ``MemoryEstimate``."""


def report(found: PlanFigures) -> Iterator[RenderableType]:
    """Everything that was found, part by part."""
    config, topology = found.config, found.plan.topology
    on = config.cluster.slice_topology
    yield (
        f"{config.program} with batches of {config.batch_size:,} on "
        + (f"{on.described}: " if on else "")
        + f"{topology.hosts} host{'s' * (topology.hosts > 1)} × "
        f"{topology.devices_per_host} devices, {topology.sparsecores} SparseCores"
    )
    yield ""
    yield _tables(found)
    yield from _names(found)
    yield _memory(found)
    yield _fits(found)
    if not found.exchange:
        yield "No data was looked at: limits are those that no batch can exceed."
        return
    yield ""
    yield _limits(found)
    yield _exchange(found)
    yield _imbalance(found)
    yield ""
    if found.time is None:
        yield "No time of a step: speeds are known of TPU slices only (cluster.topology=v6e-16)."
        return
    yield from _time(found)


def as_values(found: PlanFigures) -> dict[str, Any]:
    """The same as plain values, for a program to read; bytes and seconds."""
    config, plan = found.config, found.plan
    on = config.cluster.slice_topology
    memory, per_host = plan.memory, plan.topology.devices_per_host
    told = {part: getattr(memory, part) for part in (*_PARTS, "padding")}
    values: dict[str, Any] = {
        "program": config.program,
        "batch_size": config.batch_size,
        "topology": on.name if on else None,
        "slices": on.slices if on else None,
        "hosts": plan.topology.hosts,
        "devices": plan.topology.devices,
        "sparsecores": plan.topology.sparsecores,
        "plan_hash": plan.hash,
        "tables": [dataclasses.asdict(table) for table in found.tables],
        "device": told | {"available": found.available},
        "host": {part: per_host * size for part, size in told.items()},
        "rows_imbalance": found.rows_imbalance,
        "limits": {name: dataclasses.asdict(limits) for name, limits in plan.limits.items()},
        "dense": dataclasses.asdict(found.dense),
        "batches": found.batches,
        "exchange": [dataclasses.asdict(stack) for stack in found.exchange],
        "traffic": dataclasses.asdict(found.traffic) if found.traffic else None,
        "step": None,
    }
    if found.time is not None:
        values["step"] = dataclasses.asdict(found.time) | {
            "embedding": found.time.embedding,
            "total": found.time.total,
            "bound": found.time.bound,
            "measured_over_predicted_on_cpus": list(MEASURED),
        }
    return values


def _numbered(found: PlanFigures) -> dict[str, str]:
    """Short names of the stacks: their own may be made of many tables' names."""
    names = [stack.name for stack in found.plan.stacks]
    return {name: f"stack {number}" for number, name in enumerate(names, start=1)}


def _names(found: PlanFigures) -> Iterator[str]:
    """Whole names of stacks, as ``limits`` in a configuration takes them."""
    for name, short in _numbered(found).items():
        yield f"{short}: {name}"


def _tables(found: PlanFigures) -> Table:
    short = _numbered(found)
    rows = [
        (
            table.name,
            short[table.stack],
            f"{table.rows:,}",
            f"{table.padded_rows:,}",
            f"{table.width}",
            f"{table.padded_width}",
            size_text(table.table),
            size_text(table.slots),
            f"{table.padded_share:.1%}",
        )
        for table in found.tables
    ]
    header = ("table", "stack", "rows", "padded", "width", "padded", "table", "slots", "padding")
    return _table("Tables, on all devices together", header, rows, texts=2)


def _memory(found: PlanFigures) -> Table:
    plan = found.plan
    devices, short = plan.topology.devices_per_host, _numbered(found)
    rows = []
    for stack in plan.stacks:
        rows.append(
            (short[stack.name], *(size_text(getattr(stack.memory, part)) for part in _PARTS))
        )
    if len(plan.stacks) > 1:
        rows.append(("a device", *(size_text(getattr(plan.memory, part)) for part in _PARTS)))
    rows.append(("a host", *(size_text(devices * getattr(plan.memory, part)) for part in _PARTS)))
    return _table("Memory of a device, by stack", ("", *_PARTS.values()), rows)


def _fits(found: PlanFigures) -> str:
    padding = found.plan.memory.padding / (found.plan.memory.tables + found.plan.memory.slots)
    said = (
        f"Padding is {padding:.1%} of tables and slots. Every device holds as many rows as any "
        f"other; of those with an id, at most {found.rows_imbalance:.4f} times the mean."
    )
    if found.available is None:
        return said
    return (
        f"{said}\n{size_text(found.plan.memory.total)} of a device's "
        f"{size_text(found.available)}, without the model and the compiler's scratch memory: "
        "`compile` tells them."
    )


def _limits(found: PlanFigures) -> Table:
    rows = [
        (
            _numbered(found)[stack.name],
            f"{stack.limits.max_ids_per_partition:,}",
            f"{stack.limits.max_unique_ids_per_partition:,}",
            f"{stack.limits.buffer_size_per_device:,}",
        )
        for stack in found.plan.stacks
    ]
    header = ("", "ids of a partition", "different ones", "buffer of a device")
    return _table(f"Limits after {found.batches} batches", header, rows)


def _exchange(found: PlanFigures) -> Table:
    rows = [
        (
            _numbered(found)[stack.stack],
            f"{stack.ids:,.0f}",
            f"{stack.asked:,.0f}",
            f"{stack.different:,.0f}",
            f"{stack.most_in_a_partition:,}",
            size_text(stack.lookup_bytes),
            size_text(stack.update_bytes),
            f"{stack.off_host_share:.0%}",
        )
        for stack in found.exchange
    ]
    header = (
        "",
        "ids",
        "rows asked",
        "different",
        "most of a partition",
        "lookup sends",
        "update sends",
        "off the host",
    )
    return _table(f"A batch on all devices, mean of {found.batches}", header, rows)


def _imbalance(found: PlanFigures) -> Table:
    rows = [
        (
            _numbered(found)[stack.stack],
            f"{stack.busiest_asking:.2f}",
            f"{stack.busiest_answering:.2f}",
            f"{stack.busiest_sparsecore:.2f}",
        )
        for stack in found.exchange
    ]
    header = ("", "device asking", "device asked", "SparseCore asked")
    return _table("The busiest over the mean, by rows", header, rows)


def _time(found: PlanFigures) -> Iterator[RenderableType]:
    time, traffic = found.time, found.traffic
    assert time is not None and traffic is not None
    memory = traffic.lookup + traffic.update
    rows = [
        ("lookup", size_text(traffic.lookup), seconds_text(time.lookup)),
        ("update", size_text(traffic.update), seconds_text(time.update)),
        ("exchange", size_text(traffic.sent), seconds_text(time.exchange)),
        (
            "dense model",
            f"{found.dense.operations / 1e9:,.3g} GFLOP",
            seconds_text(time.dense),
        ),
        ("its gradients' sum", size_text(found.dense.parameter_bytes), seconds_text(time.sums)),
        ("step", "", seconds_text(time.total)),
    ]
    yield _table("A step at the chips' published speeds", ("", "a device's", "at least"), rows)
    yield (
        f"Bound by {time.bound}; at most {found.config.batch_size / time.total:,.3g} examples a "
        f"second. With an even load, memory traffic would be {traffic.even / memory:.0%} of this."
    )
    least, most = MEASURED
    yield (
        "First-order model, peaks only: never compared with a TPU. On a CPU, with its measured "
        f"copy bandwidth, lookup, exchange and update took {least:.1f} to {most:.1f} times as long "
        "as the same model says (docs/plan.md)."
    )


def _table(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1
) -> Table:
    """A table whose columns are text at first, then figures."""
    shown = Table(title=title, title_justify="left")
    for place, name in enumerate(header):
        shown.add_column(name, justify="left" if place < texts else "right", no_wrap=True)
    for row in rows:
        shown.add_row(*row)
    return shown
