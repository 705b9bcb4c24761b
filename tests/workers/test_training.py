"""The compiled train step: tables are updated where they are, and nothing grows with them."""

from __future__ import annotations

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
from workers.training import (
    DeviceBatch,
    TrainState,
    empty_metrics,
    initial_state,
    make_train_step,
)

BATCH = 64
VOCABULARY = 100_003


def examples(seed: int) -> Examples:
    generator = np.random.default_rng(seed)
    tags = generator.integers(-1, 40, (BATCH, 3)).astype(np.int32)
    return Examples(
        {"item": generator.integers(0, 500, (BATCH, 1)).astype(np.int32), "tags": tags},
        generator.normal(size=(BATCH, 1)).astype(np.float32),
        generator.integers(0, 2, BATCH).astype(np.float32),
        np.ones(BATCH, np.float32),
    )


def built(devices: int):
    mesh = Mesh(make_mesh().devices[:devices], (AXIS,))
    made = program(vocabulary=VOCABULARY)
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

    return plan, mesh, state, make_train_step(made, specs, plan, mesh), batch


@pytest.mark.parametrize("devices", [1, 4])
def test_no_copy_and_no_gathering_of_a_table(devices: int) -> None:
    plan, mesh, state, step, batch = built(devices)
    compiled = step.lower(state, empty_metrics(mesh), batch(0)).compile()
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
            state, metrics, loss = step(state, metrics, batch(seed))
            losses.append(float(loss))
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


def test_samples_of_weight_zero_change_nothing() -> None:
    _, mesh, state, step, batch = built(2)
    full = batch(0)
    half = np.arange(BATCH) % 2 == 0
    masked = full._replace(
        weights=jax.device_put(half.astype(np.float32), spread(mesh)),
        labels=full.labels,
    )
    _, _, loss = step(jax.tree.map(lambda array: array.copy(), state), empty_metrics(mesh), masked)
    flipped = masked._replace(
        labels=jax.device_put(
            np.where(half, np.asarray(full.labels), 1 - np.asarray(full.labels)), spread(mesh)
        )
    )
    _, _, same = step(state, empty_metrics(mesh), flipped)
    assert float(loss) == float(same)
