"""Plans with minibatching: buffers may be larger than one round can fill, as batches need it."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from kernels.preprocessing.minibatching import BUCKETS
from tests.kernels.preprocessing_cases import Batch, batches, preprocessing_engine
from tests.kernels.support import Engine, feature, table
from workers.protocol import Observed

__all__ = ["preprocessing_engine"]

TIGHT = 8
"""Entries of a partition."""


def engine_with(
    most: int, buffer: int, *, minibatching: bool, devices: int = 1, per_device: int = 2
) -> Engine:
    """An engine whose specs have the limits that a plan gave them."""
    engine = Engine({"f": feature("f", table("t", 1000), 16, 8)}, devices, per_device)
    plan = kernels.build_plan(
        engine.specs,
        engine.plan.topology,
        batch_size=16,
        limits={"t": kernels.Limits(most, most, buffer)},
        minibatching=minibatching,
    )
    engine.plan, engine.placed = plan, kernels.apply_plan(plan, engine.specs)
    return engine


def some_batch(engine: Engine) -> Batch:
    return Batch(engine, {"f": np.random.default_rng(0).integers(0, 1000, (16, 8))}, None)


@pytest.mark.parametrize(("devices", "per_device"), [(1, 1), (1, 2), (2, 1)])
def test_a_batch_of_several_minibatches_fits_a_plan_with_a_large_buffer(devices, per_device):
    shape = {"devices": devices, "per_device": per_device}
    # What one round can fill is less than the batch needs: no buffer would do.
    without = engine_with(TIGHT, 512, minibatching=False, **shape).plan
    full = TIGHT * (devices * per_device) * per_device
    assert without.limits["t"].buffer_size_per_device == full < 512
    engine = engine_with(TIGHT, 512, minibatching=True, **shape)
    assert engine.plan.limits["t"].buffer_size_per_device == 512
    assert some_batch(engine).assert_like_the_peer(enable_minibatching=True) > 1


def test_without_the_flag_the_same_buffer_is_capped_and_the_batch_refused():
    engine = engine_with(TIGHT, 4096, minibatching=False)
    with pytest.raises(kernels.LimitsExceeded, match="buffer_size_per_device"):
        some_batch(engine).encode(enable_minibatching=True)


def test_limits_that_were_raised_for_what_was_observed_hold_the_batch():
    engine = engine_with(TIGHT, 64, minibatching=True)
    batch = some_batch(engine)
    with pytest.raises(kernels.LimitsExceeded) as caught:
        batch.encode(enable_minibatching=True)
    (overflow,) = caught.value.overflows
    assert overflow.limit == "buffer_size_per_device"
    # The partitions' limits stay: what is raised is the buffer, beyond one round's.
    seen = {"t": Observed(TIGHT, TIGHT, overflow.observed)}
    grown = engine.plan.with_raised_limits(seen, headroom=1.0)
    assert grown.minibatching
    limits = grown.limits["t"]
    assert (limits.max_ids_per_partition, limits.max_unique_ids_per_partition) == (TIGHT, TIGHT)
    assert limits.buffer_size_per_device >= overflow.observed
    engine.plan, engine.placed = grown, kernels.apply_plan(grown, engine.specs)
    assert batch.assert_like_the_peer(enable_minibatching=True) == 8


@given(batches(most_samples=8), st.integers(1, 24), st.integers(1, 5000), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_plans_buffer_is_the_one_that_preprocessing_takes(batch, most, buffer, minibatching):
    engine = batch.engine
    plan = kernels.build_plan(
        engine.specs,
        engine.plan.topology,
        batch_size=engine.plan.batch_size,
        limits=dict.fromkeys(engine.plan.limits, kernels.Limits(most, most, buffer)),
        stack=engine.stack,
        minibatching=minibatching,
    )
    placed = kernels.apply_plan(plan, engine.specs)
    sizes = kernels.compute_coo_buffer_size_per_device(
        placed, engine.devices, engine.per_device, enable_minibatching=minibatching
    )
    assert sizes == {name: lim.buffer_size_per_device for name, lim in plan.limits.items()}


def test_the_flag_is_part_of_the_plan_its_hash_and_its_json():
    plain = engine_with(TIGHT, 32, minibatching=False).plan
    plan = engine_with(TIGHT, 32, minibatching=True).plan
    assert plan.hash != plain.hash
    assert kernels.EmbeddingPlan.from_json(plan.to_json()) == plan
    assert plan.with_limits({"t": kernels.Limits(16, 16, 64)}).minibatching
    # Pointers of 64 minibatches: of two SparseCores, eight each.
    difference = plan.memory.input_buffers - plain.memory.input_buffers
    assert difference == 4 * (BUCKETS - 1) * 2 * 8
    grown = plan.with_limits({"t": kernels.Limits(16, 16, 128)}).memory.input_buffers
    assert grown - plan.memory.input_buffers == 3 * 4 * 96


def test_plans_of_the_format_before_are_read_as_without_minibatching():
    plan = engine_with(TIGHT, 64, minibatching=False).plan
    content = json.loads(plan.to_json()) | {"format": 2}
    del content["minibatching"]
    assert kernels.EmbeddingPlan.from_json(json.dumps(content)) == plan
    with pytest.raises(kernels.SpecError, match="another version"):
        kernels.EmbeddingPlan.from_json(json.dumps(content | {"format": 4}))


def test_a_fitted_buffer_is_aligned_and_no_larger_than_it_can_be_filled():
    topology = kernels.Topology(1, 2, 2)
    limits = kernels.Limits(9, 9, 10**6)
    assert limits.fitted(topology).buffer_size_per_device == 16 * 4 * 2
    assert limits.fitted(topology, minibatching=True).buffer_size_per_device == 16 * 8 * BUCKETS
    small = dataclasses.replace(limits, buffer_size_per_device=17)
    for minibatching in (False, True):
        assert small.fitted(topology, minibatching=minibatching).buffer_size_per_device == 32


def test_the_memory_of_a_plan_with_minibatching_is_that_of_its_buffers():
    engine = engine_with(TIGHT, 512, minibatching=True, devices=2, per_device=2)
    shapes = kernels.eval_preprocess_sparse_dense_matmul_input_shape(
        engine.placed, 1, 2, num_sc_per_device=2, enable_minibatching=True
    )
    counted = sum(
        leaf.size * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(shapes.sparse_dense_matmul_input)
    )
    assert engine.plan.memory.input_buffers == counted
