"""The section on tables: limits against what batches needed, skew, memory, and the plans."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.report.norm_part import norm_part
from orchestrator.report.reading import RunRecord
from orchestrator.report.words import data_table, element, number, size, text

if TYPE_CHECKING:
    from kernels import EmbeddingPlan
    from kernels.planning.plan import StackPlan, TablePlan

__all__ = ["needed", "plan_section", "table_section"]

_TIGHT = 0.9
"""A limit that is filled by more than this is shown in another colour."""


def needed(run: RunRecord) -> dict[str, tuple[int, int, int]]:
    """What batches needed at most, by table stack.

    Returns:
        (ids of a partition, different ids of a partition, entries of a device's buffer).
    """
    found: dict[str, tuple[int, int, int]] = {}

    def note(stack: str, values: Sequence[int]) -> None:
        before = found.get(stack, (0, 0, 0))
        most = [max(pair) for pair in zip(before, values, strict=True)]
        found[stack] = (most[0], most[1], most[2])

    for event in run.of("surveyed"):
        for stack, seen in event["observed"].items():
            keys = ("max_ids_per_partition", "max_unique_ids_per_partition")
            note(stack, [*(seen[key] for key in keys), seen["required_buffer_size_per_device"]])
    for line in run.hosts:
        for stack, values in line["observed"].items():
            note(stack, values)
    return found


def table_section(run: RunRecord) -> str:
    """Every table stack with its limits and skew, and the tables in it."""
    if not run.plans:
        return element("p", "There is no plan yet.", class_="soft")
    plan = run.plans[-1]
    seen = needed(run)
    words = (
        "Tables that are stored as one are a stack; room for ids is set for stacks. A partition is "
        "what one device asks of one other in a batch. Skew is the fullest partition over the mean "
        "of the fullest device; repeats are its ids over its different ids."
    )
    header = ("stack", "ids of a partition", "different ids", "buffer of a device", "skew")
    rows = [_stack_row(plan, stack, seen.get(stack.name)) for stack in plan.stacks]
    stacks = data_table((*header, "repeats", "on each device"), rows, klass="wide")
    return element("p", words, class_="soft") + stacks + _tables(plan) + norm_part(run)


def _stack_row(
    plan: EmbeddingPlan, stack: StackPlan, seen: tuple[int, int, int] | None
) -> tuple[str, ...]:
    limits = stack.limits
    allowed = (
        limits.max_ids_per_partition,
        limits.max_unique_ids_per_partition,
        limits.buffer_size_per_device,
    )
    count = len(stack.tables)
    name = element("code", text(stack.name)) + element(
        "small", f"<br>{count} table{'s' if count > 1 else ''}, width {stack.width}"
    )
    filled = [
        _filled(None if seen is None else seen[place], limit) for place, limit in enumerate(allowed)
    ]
    skew = repeats = None
    if seen is not None and seen[2] and seen[1]:
        topology = plan.topology
        partitions = topology.sparsecores * topology.sparsecores_per_device
        skew, repeats = seen[0] * partitions / seen[2], seen[0] / seen[1]
    return (
        name,
        *filled,
        "–" if skew is None else f"{skew:.2f}",
        "–" if repeats is None else f"{repeats:.1f}",
        size(stack.memory.total),
    )


def _filled(value: int | None, limit: int) -> str:
    """A value against its limit, with a bar."""
    if value is None:
        return f"{limit:,}"
    share = min(1.0, value / limit)
    bar = element(
        "span",
        element("span", "", style=f"width:{100 * share:.0f}%", class_=_tight(share)),
        class_="bar",
    )
    return f"{value:,} of {limit:,}{bar}"


def _tight(share: float) -> str | None:
    return "tight" if share > _TIGHT else None


def _tables(plan: EmbeddingPlan) -> str:
    homes = {placed.table: stack.name for stack in plan.stacks for placed in stack.tables}
    features: dict[str, list[str]] = {}
    for feature in plan.features:
        ids = "" if feature.valency in (None, 1) else f" × {feature.valency}"
        features.setdefault(feature.table, []).append(feature.name + ids)
    several = len(plan.stacks) > 1
    rows = [
        (
            text(table.name),
            text(", ".join(features.get(table.name, []))),
            text(_optimizer(table)),
            text(table.combiner),
            *([element("code", text(homes.get(table.name, "")))] if several else []),
            f"{table.vocabulary_size:,}",
            str(table.embedding_dim),
            size(4 * table.vocabulary_size * table.embedding_dim),
        )
        for table in sorted(plan.tables, key=lambda table: -table.vocabulary_size)
    ]
    header = ["table", "features × ids of a sample", "optimizer", "combiner"]
    header += ["stack"] if several else []
    shown = data_table([*header, "rows", "width", "float32 size"], rows, words=4 + several)
    title = f"All {len(plan.tables)} tables" if len(plan.tables) > 1 else "The table"
    summary = element("summary", title)
    if len(plan.tables) > 12:
        return element("details", summary + shown)
    return element("h3", title) + shown


def _optimizer(table: TablePlan) -> str:
    """Name and learning rate; a schedule is called so."""
    told: Mapping[str, Any] = json.loads(table.optimizer)
    rate = told.get("learning_rate")
    if isinstance(rate, str):
        rate = "on a schedule"
    name = str(told.get("name", "?"))
    return name if rate is None else f"{name}, learning rate {rate}"


def plan_section(run: RunRecord) -> str:
    """Bytes on each device by stack, and every plan that was in force."""
    if not run.plans:
        return element("p", "There is no plan yet.", class_="soft")
    plan = run.plans[-1]
    columns = {
        "tables": "tables",
        "slots": "slots",
        "input_buffers": "input",
        "activations": "activations",
        "gradients": "gradients",
        "exchange": "exchange",
        "total": "all",
        "padding": "of it padding",
    }
    rows = [
        (element("code", text(name)), *(size(getattr(memory, key)) for key in columns))
        for name, memory in (
            *((stack.name, stack.memory) for stack in plan.stacks),
            *([("all", plan.memory)] if len(plan.stacks) > 1 else []),
        )
    ]
    topology = plan.topology
    cores = topology.sparsecores_per_device
    on_tpu = f" × {cores} SparseCores" if run.config.get("platform") == "tpu" else ""
    words = (
        f"{topology.hosts} hosts × {topology.devices_per_host} devices{on_tpu}, global batches of "
        f"{number(plan.batch_size)} samples. Computed bytes on each device; the dense model and "
        "the compiler's own scratch memory come on top."
    )
    memory = data_table(("stack", *columns.values()), rows)
    return element("p", words, class_="soft") + memory + _versions(run)


def _versions(run: RunRecord) -> str:
    """Every plan, and why it took over."""
    made = {event["version"]: event for event in run.of("plan_made")}
    causes: dict[int, list[str]] = {}
    for event in run.of("replanned"):
        causes.setdefault(event["version"], []).append(
            f"{event['limit']} of {event['stack']}: {event['allowed']:,} held no "
            f"{event['observed']:,}"
        )
    rows = [
        (
            str(plan.version),
            element("code", text(plan.hash[:12])),
            text("; ".join(causes.get(plan.version, []))) or text(_origin(made, plan)),
            f"{plan.topology.hosts} × {plan.topology.devices_per_host}",
            size(plan.memory.total),
        )
        for plan in run.plans
    ]
    header = ("plan", "hash", "because", "hosts × devices", "on each device")
    return element("h3", "Plans") + data_table(header, rows, words=3)


def _origin(made: Mapping[int, Mapping[str, Any]], plan: EmbeddingPlan) -> str:
    if plan.version == 0:
        given = made.get(0, {}).get("limits", "auto")
        return "made from a sample" if given == "auto" else "limits set by hand"
    return "another number of hosts, or other settings of limits"
