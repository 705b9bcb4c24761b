"""Limits settle in few compilations on skewed data, as each growth is a compilation."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kernels
from kernels.planning.limits import round_to_size
from tests.kernels.support import Engine, feature, table

LEAST = kernels.Limits(8, 8, 8)


@dataclass(frozen=True)
class Needs:
    max_ids_per_partition: int
    max_unique_ids_per_partition: int
    required_buffer_size_per_device: int

    def merge(self, other: Needs) -> Needs:
        return Needs(*map(max, zip(astuple(self), astuple(other), strict=True)))


def needs_of(engine: Engine, ids) -> dict[str, Needs]:
    _, stats = engine.encode(ids)
    return {
        stack.name: Needs(
            int(stats.max_ids_per_partition[stack.name].max()),
            int(stats.max_unique_ids_per_partition[stack.name].max()),
            int(stats.get_required_buffer_size_per_device(stack.name, engine.per_device)),
        )
        for stack in engine.plan.stacks
    }


def skewed(rng: np.random.Generator, vocabulary: int, power: float, shape) -> np.ndarray:
    """Ranks by Zipf's law over a bounded vocabulary."""
    weights = 1.0 / np.arange(1, vocabulary + 1) ** power
    ranks = np.searchsorted(np.cumsum(weights) / weights.sum(), rng.random(shape))
    return np.minimum(ranks, vocabulary - 1)


@pytest.fixture(scope="module")
def stream():
    """An engine, and what each of 500 batches needs: skewed, shuffled, and ever more skewed."""
    samples, batches = 256, 500
    users, items = table("users", 50_000, 8), table("items", 20_000, 24)
    specs = {
        "user": feature("user", users, samples, 1),
        "seen": feature("seen", items, samples, 12),
        "bought": feature("bought", items, samples, 3),
    }
    engine = Engine(specs, 4, 2)
    rng = np.random.default_rng(7)
    shuffled = {t.name: rng.permutation(t.vocabulary_size) for t in (users, items)}
    needs = []
    for power in np.linspace(1.0, 1.25, batches):
        ids = {}
        for name, spec in specs.items():
            of = spec.table_spec
            ranks = skewed(rng, of.vocabulary_size, power, spec.input_shape)
            ids[name] = shuffled[of.name][ranks].astype(np.int32)
        needs.append(needs_of(engine, ids))
    return engine, needs


def compilations(plan: kernels.EmbeddingPlan, needs, headroom: float) -> tuple[int, object]:
    """Versions of the plan that running all batches takes after the first one, and the last."""
    known = needs[0]
    plan = plan.with_limits(dict.fromkeys(plan.limits, LEAST))
    plan = plan.with_raised_limits(known, headroom=headroom)
    first = plan.version
    for batch in needs:
        known = {name: known[name].merge(batch[name]) for name in known}
        if not all(plan.stack(name).limits.hold(seen) for name, seen in batch.items()):
            plan = plan.with_raised_limits(known, headroom=headroom)
            assert all(plan.stack(name).limits.hold(seen) for name, seen in batch.items())
    return plan.version - first, plan


def test_few_compilations_over_a_skewed_stream(stream):
    engine, needs = stream
    count, plan = compilations(engine.plan, needs, headroom=1.25)
    assert count <= 3
    # Without headroom there are several times as many: that is what it is for.
    tight, _ = compilations(engine.plan, needs, headroom=1.0)
    assert tight > count
    # The room is not bought with buffers as large as could ever be needed.
    for stack in plan.stacks:
        most = max(batch[stack.name].required_buffer_size_per_device for batch in needs)
        assert stack.limits.buffer_size_per_device <= 1.6 * most
        assert stack.limits.max_ids_per_partition < stack.maximum.max_ids_per_partition


def test_one_compilation_raises_all_that_have_little_room(stream):
    engine, _ = stream
    names = [stack.name for stack in engine.plan.stacks]
    seen = dict.fromkeys(names, Needs(24, 24, 400))
    plan = engine.plan.with_limits(dict.fromkeys(names, kernels.Limits(24, 24, 400)))
    assert plan.with_raised_limits(seen) is plan
    # One of them is one entry short: it grows, and all others get their headroom too.
    raised = plan.with_raised_limits(seen | {names[-1]: Needs(25, 24, 400)})
    assert raised.version == plan.version + 1
    for name in names:
        limits = raised.stack(name).limits
        assert (limits.max_ids_per_partition, limits.max_unique_ids_per_partition) == (32, 32)


@given(st.integers(0, 2**31))
def test_sizes_are_few_and_close(value):
    size = round_to_size(value)
    assert size >= max(value, 1)
    assert size % 8 == 0
    assert size <= max(value + 8, value * 1.125)
    assert round_to_size(size) == size
    assert round_to_size(value + 1) >= size


def test_there_are_eight_sizes_to_a_doubling():
    assert len({round_to_size(value) for value in range(1025, 2049)}) == 8
