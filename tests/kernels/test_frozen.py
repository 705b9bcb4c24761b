from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from kernels.backends import StackInput, StackLayout
from kernels.frozen import without_tables
from tests.kernels.minibatching import in_minibatches
from tests.kernels.optimizer_formulas import VARIANTS
from tests.kernels.support import Engine, fast_jit, feature, random_ids, several_features, table
from tests.kernels.test_update import random_gradients


def entries_of(buffers, cores, per_device, minibatches):
    """{(SparseCore, minibatch, SparseCore asked): [(id, sample, gain)]}, by the format's rules."""
    pointers, ids, samples, gains = (np.asarray(part) for part in buffers)
    width, found = max(cores, 8), {}
    share = len(ids) // per_device
    start = place = 0
    for core in range(per_device):
        if not minibatches:
            start, place = core * share, core * width
        for minibatch in range(max(minibatches, 1)):
            for asked in range(width):
                end = pointers[place] + (0 if minibatches else core * share)
                place += 1
                found[core, minibatch, asked] = [
                    (int(ids[at]), int(samples[at]), float(gains[at])) for at in range(start, end)
                ]
                start = -(-end // 8) * 8
    return found


@functools.cache
def filtered(per_device, minibatching, names):
    """An engine and the jitted filter of one device's buffers."""
    engine = Engine(several_features(16), 1, per_device)
    tables = [kernels.get_table_specs(engine.placed)[name] for name in names]
    (stack,) = kernels.get_stacked_table_specs(engine.placed).values()
    layout = StackLayout(stack, 1, per_device, (), minibatching)
    return engine, tables, fast_jit(lambda batch: without_tables(layout, batch, tables))


@pytest.mark.parametrize(("minibatches", "names"), [(0, ("items",)), (3, ("users", "days"))])
@given(seed=st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_the_ids_of_some_tables_are_taken_out_and_the_others_stay(minibatches, names, seed):
    per_device = 2
    engine, tables, run = filtered(per_device, bool(minibatches), names)
    batch, _ = engine.encode(random_ids(engine.specs, seed))
    if minibatches:
        batch = in_minibatches(batch, 1, per_device, minibatches, seed)
    (name,) = batch.lhs_row_pointers
    buffers = [part[name] for part in batch.sparse_dense_matmul_input]
    got = run(StackInput(*buffers, np.array([max(minibatches, 1)], np.int32)))
    assert [part.shape for part in got[:4]] == [part.shape for part in buffers]

    ranges = [
        (place.row_offset_in_shard, place.row_offset_in_shard + place.padded_vocab_size // 2)
        for place in (table.setting_in_stack for table in tables)
    ]
    before = entries_of(buffers, 2, per_device, minibatches)
    want = {
        key: [e for e in entries if not any(low <= e[0] < high for low, high in ranges)]
        for key, entries in before.items()
    }
    assert entries_of(got[:4], 2, per_device, minibatches) == want
    assert sum(map(len, want.values())) < sum(map(len, before.values()))


def test_frozen_tables_stay_as_they_are_whatever_the_optimizer():
    """With momentum, a gradient of 0 would move them."""
    specs = several_features(16, optimizer=VARIANTS["adagrad_momentum"])
    specs["alone"] = feature("alone", table("alone", 20, 20), 16, 2)
    engine = Engine(specs, 2)
    tables, gradients = engine.tables(), random_gradients(specs, 1)
    batch, _ = engine.encode(random_ids(specs, 0))
    frozen = engine.update(gradients, batch, engine.tables(), frozen_tables={"items", "alone"})
    trained = engine.update(gradients, batch, engine.tables())
    before, after, other = (
        kernels.unstack_variables(engine.plan, mine) for mine in (tables, frozen, trained)
    )
    for name in before:
        want = before if name in ("items", "alone") else other
        for mine, wanted in zip(
            jax.tree.leaves(after[name]), jax.tree.leaves(want[name]), strict=True
        ):
            np.testing.assert_array_equal(mine, wanted)
        assert not np.array_equal(other[name].table, before[name].table)
    with pytest.raises(
        kernels.SpecError, match=r"frozen_tables names 'nobody'.*are 'alone', 'days"
    ):
        engine.update(gradients, batch, engine.tables(), frozen_tables=["nobody"])
    found = jax.eval_shape(
        engine.sharded(
            kernels.tpu_sparse_dense_matmul_grad,
            3,
            frozen_tables="items",
            return_gradients=True,
        ),
        gradients,
        batch,
        tables,
    )
    assert found.keys() == {"users", "days", "alone"}
