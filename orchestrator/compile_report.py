"""What ``compile`` found, in words and as plain values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from orchestrator.compile_cases import TENSOR_LIMIT, CompileCase, Estimate
from orchestrator.compile_changes import Change
from orchestrator.quantities import size_text as _size
from workers.compile_process import CompileOutcome

__all__ = ["as_values", "report_lines"]


def report_lines(
    case: CompileCase,
    computed: Estimate,
    outcome: CompileOutcome,
    tried: Sequence[Change],
    elsewhere: Sequence[Change],
) -> Iterator[str]:
    """What was found, line by line.

    Args:
        case: What was compiled.
        computed: Its memory by table, as the plan tells.
        outcome: What the compiler said.
        tried: Changes that were looked for, if it does not fit.
        elsewhere: Slices of other generations that should do.
    """
    on = case.topology
    yield f"{case.program} with batches of {case.batch_size:,} on {on.described}:"
    yield (
        f"{on.hosts} host{'s' * (on.hosts > 1)} × {on.chips_per_host} chips of {on.shape} "
        f"({on.machine_type}), "
        f"{on.devices} devices, {on.sparsecores} SparseCores"
    )
    yield ""
    yield from _columns(
        [("table", "rows", "width", "table", "slots", "in stack")]
        + [
            (
                table.name,
                f"{table.rows:,}",
                str(table.width),
                _size(table.table),
                _size(table.slots),
                stack.name,
            )
            for stack in computed.stacks
            for table in stack.tables
        ]
    )
    yield ""
    yield from _columns(
        [("stack", "tensor", "activations", "ids", "unique ids", "buffer")]
        + [
            (
                stack.name,
                f"{_size(stack.tensor)} of {_size(TENSOR_LIMIT)}",
                _size(stack.activations),
                f"{stack.max_ids_per_partition:,}",
                f"{stack.max_unique_ids_per_partition:,}",
                f"{stack.buffer_size_per_device:,}",
            )
            for stack in computed.stacks
        ]
    )
    yield "(sizes on one device; room for ids in one partition, in the buffer of one device)"
    yield ""
    if outcome.compiled:
        yield from _columns(_memory(computed, outcome))
        yield ""
        yield (
            f"It fits: {_size(outcome.needed)} of {_size(computed.available)} on each device. "
            f"Lowered in {outcome.lowering_seconds:.1f} s, "
            f"compiled in {outcome.compiling_seconds:.1f} s."
        )
        if outcome.copies_of_tables:
            yield (
                f"{outcome.copies_of_tables} instructions copy something of a table's size: the "
                "step takes longer and more memory than it need."
            )
        return
    yield f"It does not fit: {outcome.refusal}"
    yield f"By the plan it takes {_size(computed.needed)} of {_size(computed.available)}."
    yield ""
    yield "What would make it fit:"
    for change in tried:
        yield f"- {change.words}{_batch(change, case)}: {_found(change)}"
    for change in elsewhere:
        needed = _size(change.computed.needed)
        yield f"- {change.words}{_batch(change, case)}: should fit, with {needed}; not tried"


def as_values(
    case: CompileCase,
    computed: Estimate,
    outcome: CompileOutcome,
    tried: Sequence[Change],
    elsewhere: Sequence[Change],
) -> dict[str, Any]:
    """The same as plain values, for a program to read; all sizes are bytes of one device."""
    return {
        "program": case.program,
        "batch_size": case.batch_size,
        "topology": case.topology.name,
        "slices": case.topology.slices,
        "hosts": case.topology.hosts,
        "devices": case.topology.devices,
        "sparsecores": case.topology.sparsecores,
        "fits": outcome.compiled,
        "refusal": outcome.refusal,
        "memory": {
            "available": computed.available,
            "needed": outcome.needed or computed.needed,
            "tables": computed.tables,
            "slots": computed.slots,
            "activations": computed.activations,
            "temporaries": outcome.temporaries,
            "arguments": outcome.arguments,
            "code": outcome.code,
            "largest_tensor": computed.largest_tensor,
        },
        "by_table": {
            table.name: {"table": table.table, "slots": table.slots}
            for stack in computed.stacks
            for table in stack.tables
        },
        "copies_of_tables": outcome.copies_of_tables,
        "seconds": {
            "lowering": outcome.lowering_seconds,
            "compiling": outcome.compiling_seconds,
        },
        "changes": [
            {
                "change": change.words,
                "computed": change.computed.needed,
                "should_fit": change.should_help,
                "tried": change.outcome is not None,
                "fits": change.helps,
            }
            for change in (*tried, *elsewhere)
        ],
    }


def _memory(computed: Estimate, outcome: CompileOutcome) -> list[tuple[str, ...]]:
    rest = outcome.arguments - computed.tables - computed.slots
    scratch = outcome.temporaries - computed.activations
    return [
        ("on each device", "", ""),
        ("tables", _size(computed.tables), ""),
        ("slot variables", _size(computed.slots), ""),
        ("model and batch", _size(max(rest, 0)), ""),
        ("activations", _size(computed.activations), "and their gradients"),
        ("other scratch memory", _size(max(scratch, 0)), ""),
        ("program", _size(outcome.code), ""),
    ]


def _found(change: Change) -> str:
    computed = change.computed
    if change.outcome is None:
        if computed.largest_tensor > TENSOR_LIMIT:
            return f"does not help: a tensor of {_size(computed.largest_tensor)} (computed)"
        if change.crowded:
            return "does not help: no room for so many different ids in a partition (computed)"
        return f"does not help: it takes {_size(computed.needed)} (computed)"
    if change.outcome.compiled:
        return f"fits, with {_size(change.outcome.needed)} on each device (tried)"
    return f"does not help: {change.outcome.refusal} (tried)"


def _batch(change: Change, case: CompileCase) -> str:
    """The batch size, where it had to change with the slices."""
    if change.case.batch_size == case.batch_size or change.case.topology == case.topology:
        return ""
    return f" with batch_size={change.case.batch_size}"


def _columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows of text with their columns one below the other, all but the first to the right."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    for row in rows:
        cells = (
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()
