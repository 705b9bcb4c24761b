from __future__ import annotations

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kernels
from tests.kernels.support import (
    Engine,
    fast_jit,
    feature,
    random_ids,
    several_features,
    table,
    true_gradients,
)
from tests.kernels.test_optimizers import true_step

OPTIMIZERS = [
    kernels.SGDOptimizerSpec(0.3),
    kernels.AdagradOptimizerSpec(0.3),
    kernels.RowWiseAdagradOptimizerSpec(0.3),
]


def random_gradients(specs, seed):
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(size=spec.output_shape).astype(np.float32) for name, spec in specs.items()
    }


def true_update(specs, variables, gradients, ids, gains=None):
    """Every row of the batch moves by the optimizer's formula, all others stay."""
    result = {}
    optimizers = {s.table_spec.name: s.table_spec.optimizer for s in specs.values()}
    for name, rows in true_gradients(specs, gradients, ids, gains).items():
        table_, slots = variables[name].table.copy(), [s.copy() for s in variables[name].slot]
        touched = sorted(rows)
        summed = np.array([rows[i] for i in touched])
        rate = optimizers[name].learning_rate
        new, new_slots = true_step(
            optimizers[name], summed, table_[touched], [s[touched] for s in slots], rate
        )
        table_[touched] = new
        for slot, value in zip(slots, new_slots, strict=True):
            slot[touched] = value
        result[name] = (table_, slots, touched)
    return result


@pytest.mark.parametrize(
    ("devices", "per_device", "optimizer"),
    [
        (1, 1, OPTIMIZERS[0]),
        (2, 2, OPTIMIZERS[0]),
        (1, 4, OPTIMIZERS[1]),
        (4, 1, OPTIMIZERS[1]),
        (2, 1, OPTIMIZERS[2]),
        (4, 2, OPTIMIZERS[2]),
    ],
    ids=str,
)
def test_updated_tables_are_those_of_the_reference(devices, per_device, optimizer):
    specs = several_features(32, optimizer=optimizer, combiner="mean")
    engine = Engine(specs, devices, per_device)
    tables = engine.tables()
    before = kernels.unstack_variables(engine.plan, tables)
    ids, gradients = random_ids(specs, 1), random_gradients(specs, 2)
    rng = np.random.default_rng(3)
    gains = {name: rng.uniform(0.2, 2, value.shape) for name, value in ids.items()}
    updated = engine.update(gradients, engine.encode(ids, gains)[0], tables)
    after = kernels.unstack_variables(engine.plan, updated)
    for name, (rows, slots, touched) in true_update(specs, before, gradients, ids, gains).items():
        np.testing.assert_allclose(after[name].table, rows, rtol=2e-4, atol=2e-6)
        for mine, other in zip(after[name].slot, slots, strict=True):
            np.testing.assert_allclose(mine, other, rtol=2e-4)
        untouched = np.setdiff1d(np.arange(len(rows)), touched)
        np.testing.assert_array_equal(after[name].table[untouched], before[name].table[untouched])
    for mine in updated.values():
        assert np.isfinite(mine.table).all()
        assert not np.any(mine.table[:, 12:])


def trainer(engine):
    """A function of a number of steps of pulling activations to a target: logical variables."""

    def step(batch, tables, targets):
        activations = kernels.tpu_sparse_dense_matmul(
            batch,
            tables,
            engine.placed,
            global_device_count=engine.devices,
            num_sc_per_device=engine.per_device,
        )
        gradients = jax.tree.map(jnp.subtract, activations, targets)
        return kernels.tpu_sparse_dense_matmul_grad(
            gradients, batch, tables, engine.placed, num_sc_per_device=engine.per_device
        )

    spec = jax.sharding.PartitionSpec(engine.mesh.axis_names[0])
    sharded = jax.shard_map(
        step, mesh=engine.mesh, in_specs=(spec,) * 3, out_specs=spec, check_vma=False
    )
    compiled = fast_jit(sharded, donate_argnums=1)

    def train(steps):
        tables = engine.tables(seed=3)
        for number in range(steps):
            batch, _ = engine.encode(random_ids(engine.specs, number))
            tables = compiled(batch, tables, random_gradients(engine.specs, 100 + number))
        return kernels.unstack_variables(engine.plan, tables)

    return train


def test_every_mesh_and_stacking_trains_to_the_same_tables_and_repeats_bit_by_bit():
    specs = several_features(32, optimizer=kernels.AdagradOptimizerSpec(0.3))
    want = trainer(Engine(specs, 1))(4)
    for devices, per_device, stack in ((1, 4, True), (2, 2, True), (4, 1, True), (2, 1, False)):
        train = trainer(Engine(specs, devices, per_device, stack))
        got, again = train(4), train(4)
        for mine, repeated, other in zip(
            *(jax.tree.leaves(variables) for variables in (got, again, want)), strict=True
        ):
            np.testing.assert_array_equal(mine, repeated)
            np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5)


def test_learning_rates_follow_the_step():
    specs = {"f": feature("f", table("t", 9, optimizer=kernels.SGDOptimizerSpec(lambda s: s)), 8)}
    engine = Engine(specs, 2)
    ids, gradients = random_ids(specs, 0), random_gradients(specs, 1)
    batch, _ = engine.encode(ids)
    start = kernels.unstack_tables(engine.plan, engine.tables())["t"]
    moved = [
        kernels.unstack_tables(
            engine.plan, engine.update(gradients, batch, engine.tables(), step=step)
        )["t"]
        - start
        for step in (1, 3)
    ]
    np.testing.assert_allclose(3 * moved[0], moved[1], rtol=1e-4, atol=1e-6)
    with pytest.raises(kernels.SpecError, match="needs the step"):
        engine.update(gradients, batch, engine.tables())


def test_updated_entries_can_be_bounded():
    specs = several_features(16)
    engine = Engine(specs, 2)
    (name,) = engine.plan.limits
    batch, _ = engine.encode(random_ids(specs, 0))
    updated = engine.update(
        random_gradients(specs, 1),
        batch,
        engine.tables(),
        embedding_var_limits={name: (-0.05, None)},
    )
    changed = np.asarray(updated[name].table) != np.asarray(engine.tables()[name].table)
    assert changed.any()
    assert np.asarray(updated[name].table)[changed].min() == pytest.approx(-0.05)


def test_gradients_may_come_stacked():
    specs = several_features(16)
    engine = Engine(specs, 1, 2)
    batch, _ = engine.encode(random_ids(specs, 0))
    gradients = random_gradients(specs, 1)

    def update(given, **options):
        run = functools.partial(
            kernels.tpu_sparse_dense_matmul_grad,
            feature_specs=engine.placed,
            num_sc_per_device=2,
            **options,
        )
        return fast_jit(run)(given, batch, engine.tables())

    stacked = kernels.stack_embedding_gradients(gradients, engine.placed, 2)
    for mine, other in zip(
        jax.tree.leaves(update(gradients)),
        jax.tree.leaves(update(stacked, perform_stacking=False)),
        strict=True,
    ):
        np.testing.assert_array_equal(mine, other)
    with pytest.raises(kernels.SpecError, match="mapping by stack name"):
        update([1], perform_stacking=False)
    with pytest.raises(kernels.SpecError, match="structure of feature_specs"):
        update({"user": gradients["user"]})


@pytest.mark.parametrize(("devices", "per_device"), [(1, 1), (4, 1), (2, 2)])
def test_a_donated_step_works_in_place_and_moves_no_table(devices, per_device):
    """The optimized program has no copy, all-gather or new buffer as large as a table."""
    rows = 40_000
    specs = {
        "a": feature("a", table("a", rows, 8), 32, 2),
        "b": feature("b", table("b", rows, 8), 32, 1),
    }
    engine = Engine(specs, devices, per_device)
    tables = engine.tables()
    batch, _ = engine.encode(random_ids(specs, 0))
    gradients = random_gradients(specs, 1)

    def step(batch, tables, gradients):
        activations = kernels.tpu_sparse_dense_matmul(
            batch, tables, engine.placed, global_device_count=devices, num_sc_per_device=per_device
        )
        gradients = jax.tree.map(jnp.add, activations, gradients)
        return kernels.tpu_sparse_dense_matmul_grad(
            gradients, batch, tables, engine.placed, num_sc_per_device=per_device
        )

    spec = jax.sharding.PartitionSpec(engine.mesh.axis_names[0])
    run = jax.jit(
        jax.shard_map(
            step, mesh=engine.mesh, in_specs=(spec,) * 3, out_specs=spec, check_vma=False
        ),
        donate_argnums=1,
    )
    compiled = run.lower(batch, tables, gradients).compile()
    text = compiled.as_text()
    local_rows = engine.plan.stacks[0].vocab_size // devices
    assert f"f32[{local_rows},8]" in text
    for line in text.splitlines():
        _, _, operation = line.partition(" = ")
        size = re.match(r"\(?f32\[(\d+),8\]", operation)
        if size and int(size[1]) >= local_rows:
            assert not re.search(
                r"\b(copy|copy-start|all-gather|all-reduce|broadcast)\(", operation
            ), line
    # Table and accumulator: two outputs, both in the memory of an input.
    header = text.splitlines()[0]
    aliases = re.search(r"input_output_alias=\{(.*?)\}, entry", header)
    assert aliases
    assert aliases[1].count("alias)") == 2
    memory = compiled.memory_analysis()
    table_bytes = local_rows * 8 * 4
    assert memory.alias_size_in_bytes == 2 * table_bytes
    assert memory.temp_size_in_bytes < table_bytes / 4
