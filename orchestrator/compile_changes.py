"""What would make a step fit that does not: computed from plans, then tried with the compiler."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from orchestrator.compile_cases import CompileCase, Estimate, estimate
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

    @property
    def helps(self) -> bool:
        """Whether the compiler took the step with this change."""
        return self.outcome is not None and self.outcome.compiled


def changes_for(case: CompileCase, outcome: CompileOutcome) -> Iterator[list[Change]]:
    """Changes that might help; each list is of one kind, the least change first.

    Args:
        case: What did not fit.
        outcome: What the compiler said to it.
    """
    yield [_computed(_hosts(other), case.on(other)) for other in larger_topologies(case.topology)]
    if not case.without_slots:
        bare = dataclasses.replace(case, without_slots=True)
        yield [_computed("plain SGD for all tables, which keeps no slot variables", bare)]
    smaller = _smaller_batch(case, outcome)
    if smaller is not None:
        yield [_computed(f"batch_size={smaller.batch_size}", smaller)]


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
        promising = [change for change in kind if change.computed.fits]
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


def _computed(words: str, case: CompileCase) -> Change:
    return Change(words, case, estimate(case.plan(), case.topology))


def _smaller_batch(case: CompileCase, outcome: CompileOutcome) -> CompileCase | None:
    """The batch that should fit, if what does not fit is what grows with the batch."""
    computed = estimate(case.plan(), case.topology)
    state = computed.tables + computed.slots
    room, wanted = outcome.available - state, outcome.needed - state
    if outcome.available == 0 or room <= 0 or wanted <= room:
        return None
    step = case.topology.sparsecores
    size = int(0.9 * case.batch_size * room / wanted) // step * step
    return dataclasses.replace(case, batch_size=size) if size else None
