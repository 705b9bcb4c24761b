"""What would make a step fit that does not: computed from plans, then tried with the compiler."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from orchestrator.compile_cases import CompileCase, Estimate, estimate
from orchestrator.compile_room import SparsecoreRoom
from orchestrator.config import LimitsConfig
from orchestrator.topology import (
    GENERATIONS,
    SliceTopology,
    larger_topologies,
    sizes_of,
    slice_topology,
)
from workers.compile_process import CompileOutcome

__all__ = ["Change", "changes_for", "other_generations", "try_changes"]

_MOST_TRIES = 2
"""Sizes of slices that are tried with the compiler."""


@dataclass(frozen=True)
class Change:
    """A change, and what is known of it."""

    words: str
    """What to change."""
    case: CompileCase
    computed: Estimate
    outcome: CompileOutcome | None = None
    """What the compiler said; None if it was not asked."""
    crowded: bool = False
    """Whether a SparseCore has no room for the different ids that a batch may have."""

    @property
    def helps(self) -> bool:
        """Whether the compiler took the step with this change."""
        return self.outcome is not None and self.outcome.compiled

    @property
    def should_help(self) -> bool:
        """Whether the step should fit with this change: only the compiler knows."""
        return self.computed.fits and not self.crowded


def changes_for(case: CompileCase, outcome: CompileOutcome) -> Iterator[list[Change]]:
    """Changes that might help; each list is of one kind, the least change first.

    Args:
        case: What did not fit.
        outcome: What the compiler said to it.
    """
    room = SparsecoreRoom.told_in(outcome.refusal)
    if room is not None:
        yield [_fewer_different_ids(case, room)]
    yield [
        _computed(_hosts(other), case.on(other), room) for other in larger_topologies(case.topology)
    ]
    if not case.without_slots:
        bare = dataclasses.replace(case, without_slots=True)
        yield [_computed("plain SGD for all tables, which keeps no slot variables", bare, room)]
    smaller = _smaller_batch(case, outcome, room)
    if smaller is not None:
        yield [_computed(f"batch_size={smaller.batch_size}", smaller, room)]


def other_generations(case: CompileCase) -> list[Change]:
    """Of every other generation the smallest slices on which the step should fit; not tried."""
    found = []
    for name in GENERATIONS:
        if name == case.topology.generation.name:
            continue
        sizes = [slice_topology(f"{name}-{n}", case.topology.slices) for n in sizes_of(name)]
        changes = (_computed(_hosts(size), case.on(size)) for size in sizes)
        fitting = next((change for change in changes if change.computed.fits), None)
        found += [fitting] if fitting else []
    return found


def try_changes(
    case: CompileCase, outcome: CompileOutcome, compiler: Callable[[CompileCase], CompileOutcome]
) -> list[Change]:
    """Of each kind of change the least that helps, as the compiler says.

    Args:
        case: What did not fit.
        outcome: What the compiler said to it.
        compiler: Compiles a case.

    Returns:
        One change of each kind: one that helps; else the last that was tried; else, where all are
        computed not to fit, the one that comes nearest.
    """
    told = []
    for kind in changes_for(case, outcome):
        promising = [change for change in kind if change.should_help]
        tried: Change | None = None
        for change in promising[:_MOST_TRIES]:
            tried = dataclasses.replace(change, outcome=compiler(change.case))
            if tried.helps:
                break
        if tried is not None:
            told.append(tried)
        elif kind:
            told.append(min(kind, key=lambda change: change.computed.needed))
    return told


def _hosts(topology: SliceTopology) -> str:
    return f"{topology.described} ({topology.hosts} host{'s' * (topology.hosts > 1)})"


def _computed(words: str, case: CompileCase, room: SparsecoreRoom | None = None) -> Change:
    computed = estimate(case.plan(), case.topology)
    return Change(words, case, computed, crowded=bool(room and room.crowded(computed)))


def _fewer_different_ids(case: CompileCase, room: SparsecoreRoom) -> Change:
    """The same with limits that a SparseCore has room for; runs find theirs in the data."""
    crowded = room.crowded(estimate(case.plan(), case.topology))
    limits = {
        stack.name: LimitsConfig(
            max_ids_per_partition=stack.max_ids_per_partition,
            max_unique_ids_per_partition=room.ids(stack),
            buffer_size_per_device=stack.buffer_size_per_device,
        )
        for stack in crowded
    }
    words = ", ".join(
        f"limits.{name}.max_unique_ids_per_partition={limit.max_unique_ids_per_partition}"
        for name, limit in limits.items()
    )
    changed = dataclasses.replace(case, limits={**case.limits, **limits})
    return _computed(f"{words} (a run finds its limits in the data)", changed, room)


def _smaller_batch(
    case: CompileCase, outcome: CompileOutcome, room: SparsecoreRoom | None
) -> CompileCase | None:
    """The batch that should fit, if what does not fit is what grows with the batch."""
    if room is not None:
        return _less_crowded(case, room)
    computed = estimate(case.plan(), case.topology)
    state = computed.tables + computed.slots
    left, wanted = outcome.available - state, outcome.needed - state
    if outcome.available == 0 or left <= 0 or wanted <= left:
        return None
    step = case.topology.sparsecores
    size = int(0.9 * case.batch_size * left / wanted) // step * step
    return dataclasses.replace(case, batch_size=size) if size else None


def _less_crowded(case: CompileCase, room: SparsecoreRoom) -> CompileCase | None:
    """The largest batch, more or less, whose different ids a SparseCore has room for."""
    step = case.topology.sparsecores
    size = case.batch_size
    while size:
        smaller = dataclasses.replace(case, batch_size=size)
        crowded = room.crowded(estimate(smaller.plan(), case.topology))
        if not crowded:
            return smaller
        # Not in proportion: tables may be stacked otherwise, and small ones have few rows.
        share = min(room.ids(one) / one.max_unique_ids_per_partition for one in crowded)
        size = int(size * min(share, 0.9)) // step * step
    return None
