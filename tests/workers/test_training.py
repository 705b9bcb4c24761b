"""The compiled train step: tables are updated where they are, and nothing grows with them."""

from __future__ import annotations

import dataclasses
import functools
import re

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from kernels import apply_plan, unstack_tables
from tests.workers.small_program import program
from workers.batches import RawBatch, encode
from workers.data.examples import Examples
from workers.mesh import AXIS, make_mesh, spread
from workers.planning import make_plan
from workers.protocol import RunSpec
from workers.ridge import Ridge
from workers.training import (
    DeviceBatch,
    TrainState,
    advance,
    empty_metrics,
    initial_state,
    make_train_step,
)

BATCH = 64
VOCABULARY = 100_003
RIDGE = Ridge(strength=0.05, first=0.2, every=2)


def examples(seed: int) -> Examples:
    generator = np.random.default_rng(seed)
    tags = generator.integers(-1, 40, (BATCH, 3)).astype(np.int32)
    return Examples(
        {"item": generator.integers(0, 500, (BATCH, 1)).astype(np.int32), "tags": tags},
        generator.normal(size=(BATCH, 1)).astype(np.float32),
        generator.integers(0, 2, BATCH).astype(np.float32),
        np.ones(BATCH, np.float32),
    )


def built(devices: int, skip_non_finite: bool = False, ridge: Ridge | None = None):
    """Plan, mesh, first state, compiled step and batches: compiled once for all tests."""
    plan, mesh, state, step, batch = built_once(devices, skip_non_finite, ridge)
    return plan, mesh, jax.tree.map(lambda array: array.copy(), state), step, batch


@functools.cache
def built_once(devices: int, skip_non_finite: bool, ridge: Ridge | None):
    mesh = Mesh(make_mesh().devices[:devices], (AXIS,))
    made = dataclasses.replace(program(vocabulary=VOCABULARY), ridge=ridge)
    run = RunSpec("", {}, "", "", BATCH, 1, 0, devices)
    plan = make_plan(made, run, 1, None, None, 0)
    specs = apply_plan(plan, made.feature_specs(BATCH))
    state = initial_state(made, plan, specs, mesh, seed=7)

    def batch(seed: int) -> DeviceBatch:
        raw = RawBatch(0, np.zeros(BATCH, np.int64), examples(seed), BATCH)
        encoded = encode(raw, specs, plan)
        data = raw.examples
        host = DeviceBatch(encoded.inputs, data.dense, data.labels, data.weights)
        return jax.tree.map(lambda array: jax.device_put(array, spread(mesh)), host)

    step = make_train_step(made, specs, plan, mesh, skip_non_finite=skip_non_finite)
    return plan, mesh, state, step.lower(state, empty_metrics(mesh), batch(0)).compile(), batch


@pytest.mark.parametrize("ridge", [None, RIDGE], ids=["", "ridge"])
@pytest.mark.parametrize("skips", [False, True])
@pytest.mark.parametrize("devices", [1, 4])
def test_no_copy_and_no_gathering_of_a_table(
    devices: int, skips: bool, ridge: Ridge | None
) -> None:
    plan, _, state, compiled, _ = built(devices, skip_non_finite=skips, ridge=ridge)
    rows = plan.stack("item").vocab_size // devices
    text = compiled.as_text()
    shape = rf"f32\[{rows},\d+\]"
    assert re.search(shape, text), "the test looks for the wrong shape"
    for line in text.splitlines():
        operation = re.match(rf"\s*(?:ROOT )?\S+ = \(?{shape}\S* (\S+?)\(", line)
        if operation:
            assert not re.match(r"(copy|all-gather|concatenate|sort)", operation[1]), line
    table_bytes = sum(
        array.addressable_shards[0].data.nbytes for array in jax.tree.leaves(state.tables)
    )
    memory = compiled.memory_analysis()
    assert memory.alias_size_in_bytes > table_bytes
    assert memory.temp_size_in_bytes < table_bytes / 4


def test_steps_agree_on_every_mesh_and_repeat_bit_for_bit() -> None:
    def run(devices: int) -> tuple[list[float], dict[str, np.ndarray], TrainState]:
        plan, mesh, state, step, batch = built(devices)
        losses = []
        metrics = empty_metrics(mesh)
        for seed in range(4):
            state, metrics, outcome = step(state, metrics, batch(seed))
            losses.append(float(outcome.loss))
        return losses, unstack_tables(plan, state.tables), state

    losses, tables, state = run(4)
    again, tables_again, state_again = run(4)
    assert losses == again
    for name, table in tables.items():
        assert np.array_equal(table, tables_again[name])
    for one, other in zip(
        jax.tree.leaves(state.parameters), jax.tree.leaves(state_again.parameters), strict=True
    ):
        assert np.array_equal(one, other)
    for devices in (1, 2):
        other_losses, other_tables, _ = run(devices)
        assert other_losses == pytest.approx(losses, rel=1e-5)
        for name, table in tables.items():
            assert np.allclose(table, other_tables[name], rtol=1e-4, atol=1e-5)


def drawn(table: np.ndarray, accumulator: np.ndarray) -> np.ndarray:
    """What two steps of the small program's learning rate with RIDGE make of a table."""
    strength = np.full(table.shape[1], 0.05)
    strength[0] = 0.2
    return table / (1 + 2 * 0.3 * strength / np.sqrt(accumulator))


@pytest.mark.parametrize("devices", [1, 4])
def test_a_ridge_draws_every_row_when_a_pass_is_due(devices: int) -> None:
    plan, mesh, state, step, batch = built(devices, ridge=RIDGE)
    _, _, plain_state, plain, _ = built(devices)
    metrics, plain_metrics = empty_metrics(mesh), empty_metrics(mesh)

    def tables(state: TrainState) -> dict[str, np.ndarray]:
        return unstack_tables(plan, state.tables)

    def accumulators(state: TrainState) -> dict[str, np.ndarray]:
        given = {n: v._replace(table=v.slot[0]) for n, v in state.tables.items()}
        return unstack_tables(plan, given)

    state, metrics, _ = step(state, metrics, batch(0))
    plain_state, plain_metrics, _ = plain(plain_state, plain_metrics, batch(0))
    for name, table in tables(plain_state).items():
        assert np.array_equal(tables(state)[name], table), "no pass is due"
    state, metrics, _ = step(state, metrics, batch(1))
    plain_state, _, _ = plain(plain_state, plain_metrics, batch(1))
    assert len(tables(state)) == 2
    for name, table in tables(plain_state).items():
        want = drawn(table, accumulators(plain_state)[name])
        assert np.all(want != table), "rows that no batch has are drawn too"
        np.testing.assert_allclose(tables(state)[name], want, rtol=1e-5)


def test_a_skipped_step_draws_nothing() -> None:
    plan, mesh, state, step, batch = built(4, skip_non_finite=True, ridge=RIDGE)
    state, metrics, _ = step(state, empty_metrics(mesh), batch(0))
    before = {name: np.array(table) for name, table in unstack_tables(plan, state.tables).items()}
    state, _, _ = step(state, metrics, poisoned(batch(1), mesh))
    for name, table in unstack_tables(plan, state.tables).items():
        assert np.array_equal(table, before[name])


def test_samples_of_weight_zero_change_nothing() -> None:
    _, mesh, state, step, batch = built(2)
    full = batch(0)
    half = np.arange(BATCH) % 2 == 0
    masked = full._replace(
        weights=jax.device_put(half.astype(np.float32), spread(mesh)),
        labels=full.labels,
    )
    copied = jax.tree.map(lambda array: array.copy(), state)
    _, _, outcome = step(copied, empty_metrics(mesh), masked)
    flipped = masked._replace(
        labels=jax.device_put(
            np.where(half, np.asarray(full.labels), 1 - np.asarray(full.labels)), spread(mesh)
        )
    )
    _, _, same = step(state, empty_metrics(mesh), flipped)
    assert float(outcome.loss) == float(same.loss)


def poisoned(batch: DeviceBatch, mesh: Mesh) -> DeviceBatch:
    """The batch with the label of one sample, the last device's, not a number."""
    labels = np.array(batch.labels)
    labels[-1] = np.nan
    return batch._replace(labels=jax.device_put(labels, spread(mesh)))


def test_what_is_not_finite_is_told_by_the_step_and_by_feature() -> None:
    _, mesh, state, step, batch = built(4)
    state, metrics, outcome = step(state, empty_metrics(mesh), batch(0))
    assert not np.any(outcome.non_finite)
    state, metrics, outcome = step(state, metrics, poisoned(batch(1), mesh))
    flags = np.asarray(outcome.non_finite)
    assert np.isnan(outcome.loss)
    # The features' activations are still finite, their gradients on one device are not.
    assert list(flags[:2]) == [1, 1]
    assert set(flags[2:]) == {1}


def test_a_step_that_is_skipped_changes_nothing_and_the_next_is_as_if_it_had_not_been() -> None:
    plan, mesh, state, step, batch = built(4, skip_non_finite=True)
    state, metrics, _ = step(state, empty_metrics(mesh), batch(0))
    before = jax.tree.map(np.array, (state, metrics))
    state, metrics, outcome = step(state, metrics, poisoned(batch(1), mesh))
    assert np.any(outcome.non_finite)
    after = jax.tree.map(np.array, (state, metrics))
    assert after[0].step == before[0].step + 1 == 2
    for one, other in zip(
        jax.tree.leaves((before[0]._replace(step=0), before[1])),
        jax.tree.leaves((after[0]._replace(step=0), after[1])),
        strict=True,
    ):
        assert np.array_equal(one, other)
    state, _, outcome = step(state, metrics, batch(2))
    assert np.isfinite(outcome.loss)

    _, mesh, plain, plain_step, batch = built(4)
    plain, metrics, _ = plain_step(plain, empty_metrics(mesh), batch(0))
    plain, _, plain_outcome = plain_step(advance(plain), metrics, batch(2))
    assert outcome.loss == plain_outcome.loss
    tables = unstack_tables(plan, plain.tables)
    for name, table in unstack_tables(plan, state.tables).items():
        assert np.array_equal(table, tables[name])
