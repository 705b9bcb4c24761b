"""The limits that a sample of batches implies, without hosts: what ``data describe`` tells."""

from __future__ import annotations

from collections.abc import Mapping

from workers.batches import encode, raw_batches, slots_of
from workers.data.reader import ExampleReader
from workers.data.sources import open_dataset
from workers.planning import TRAIN, make_plan, order_for, planned_specs
from workers.program import Program
from workers.protocol import Observed, RunSpec, merge_observed

__all__ = ["implied_limits"]


def implied_limits(
    program: Program, run: RunSpec, hosts: int, batches: int = 4
) -> tuple[Mapping[str, Observed], Mapping[str, tuple[str, ...]]]:
    """Largest numbers of ids in the first batches, as a run's survey finds them.

    Args:
        program: What would be trained.
        run: The run, with its data and batch size.
        hosts: Hosts it would have.
        batches: Batches to look at.

    Returns:
        By table stack, the largest values; and the tables of each stack.

    Raises:
        DataError: The data cannot be read, or a value not used.
    """
    plan = make_plan(program, run, hosts, None, None, 0)
    specs = planned_specs(program, plan)
    dataset = open_dataset(run.data, TRAIN, program.schema.columns, run.holdout)
    order = order_for(dataset, run)
    reader = ExampleReader(dataset, program.schema)
    found: dict[str, Observed] = {}
    for rank in range(hosts):
        slots = slots_of(order, rank, hosts)
        for raw in raw_batches(order, reader, slots, 0, min(batches, order.steps_per_epoch)):
            found = merge_observed(found, encode(raw, specs, plan).observed)
    return found, {stack.name: tuple(t.table for t in stack.tables) for stack in plan.stacks}
