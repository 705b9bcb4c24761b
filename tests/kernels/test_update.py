from __future__ import annotations

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kernels
from tests.kernels.minibatching import in_minibatches
from tests.kernels.support import (
    Engine,
    fast_jit,
    feature,
    random_ids,
    several_features,
    table,
)


def random_gradients(specs, seed):
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(size=spec.output_shape).astype(np.float32) for name, spec in specs.items()
    }


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


@pytest.mark.parametrize(
    ("devices", "per_device", "minibatches"), [(1, 1, 0), (2, 2, 0), (4, 1, 3)]
)
def test_a_donated_step_works_in_place_and_moves_no_table(devices, per_device, minibatches):
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

    if minibatches:
        batch = in_minibatches(batch, devices, per_device, minibatches)
    options = {
        "num_sc_per_device": per_device,
        "enable_minibatching": bool(minibatches),
        "platform": "gpu",  # the backend in plain JAX, here compiled for CPUs
    }

    def step(batch, tables, gradients):
        activations = kernels.tpu_sparse_dense_matmul(
            batch, tables, engine.placed, global_device_count=devices, **options
        )
        gradients = jax.tree.map(jnp.add, activations, gradients)
        return kernels.tpu_sparse_dense_matmul_grad(
            gradients, batch, tables, engine.placed, **options
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
