from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import kernels
from tests.kernels.support import AXIS, Engine, fast_jit, random_ids, sample_gains, several_features

SAMPLES = 16


@pytest.fixture(scope="module")
def engine():
    optimizer = kernels.AdagradOptimizerSpec(lambda step: 0.1 * step)
    return Engine(several_features(SAMPLES, combiner="mean", optimizer=optimizer), 2, 2)


@pytest.fixture(scope="module")
def ids(engine):
    return random_ids(engine.specs, 4)


def options(engine):
    return {"global_device_count": engine.devices, "num_sc_per_device": engine.per_device}


def model(dense, activations):
    """A loss in which features meet, summed over samples."""
    joined = sum(jnp.tanh(value * dense[name]) for name, value in activations.items())
    return jnp.sum(jnp.sin(joined) ** 2)


def a_dense(engine):
    rng = np.random.default_rng(1)
    return {name: rng.normal(size=(12,)).astype(np.float32) for name in engine.specs}


@pytest.fixture(scope="module")
def truth(engine, ids):
    """Loss and gradients by ordinary differentiation of a product with a dense matrix."""
    logical = kernels.unstack_tables(engine.plan, engine.tables())
    matrices = {}
    for name, spec in engine.specs.items():
        matrix = np.zeros((SAMPLES, spec.table_spec.vocabulary_size), np.float32)
        for sample, row in enumerate(ids[name]):
            for i, gain in sample_gains(spec, row, np.ones(len(row))):
                matrix[sample, i] += gain
        matrices[name] = matrix

    def loss(dense, tables):
        looked_up = {
            name: matrices[name] @ tables[spec.table_spec.name]
            for name, spec in engine.specs.items()
        }
        return model(dense, looked_up)

    value, gradients = jax.value_and_grad(loss, argnums=(0, 1))(a_dense(engine), logical)
    return value, *jax.tree.map(np.asarray, gradients)


def sharded(engine, function, in_specs, out_specs):
    return jax.shard_map(
        function, mesh=engine.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
    )


SHARDED, WHOLE = PartitionSpec(AXIS), PartitionSpec()


def test_gradients_of_the_tables_are_those_of_dense_differentiation(engine, ids, truth):
    look = functools.partial(
        kernels.differentiable_lookup, feature_specs=engine.placed, **options(engine)
    )
    batch, tables = engine.encode(ids)[0], engine.tables()
    spread = sharded(engine, look, (SHARDED, SHARDED), SHARDED)

    def loss(dense, tables):
        return model(dense, spread(batch, tables))

    run = fast_jit(jax.value_and_grad(loss, argnums=(0, 1)))
    value, (dense, found) = run(a_dense(engine), tables)
    want, want_dense, want_tables = truth
    np.testing.assert_allclose(value, want, rtol=1e-5)
    by_table = kernels.unstack_variables(engine.plan, found)
    for name in want_tables:
        np.testing.assert_allclose(by_table[name].table, want_tables[name], rtol=1e-4, atol=1e-5)
        assert not by_table[name].slot[0].any()
    for name in want_dense:
        np.testing.assert_allclose(dense[name], want_dense[name], rtol=1e-4, atol=1e-5)
    # Rows and columns that pad the tables have no gradient.
    total = sum(np.abs(table).sum() for table in want_tables.values())
    padded = sum(float(jnp.abs(mine.table).sum()) for mine in found.values())
    assert padded == pytest.approx(float(total), rel=1e-4)


def test_probes_have_the_gradients_of_the_rows(engine, ids, truth):
    batch, tables = engine.encode(ids)[0], engine.tables()

    def of_device(dense, tables, batch):
        given = (batch, tables)
        probes = kernels.gradient_probes(*given, engine.placed, **options(engine))

        def loss(dense, probes):
            looked_up = kernels.probed_lookup(*given, probes, engine.placed, **options(engine))
            return model(dense, looked_up)

        found = jax.grad(loss, argnums=1)(dense, probes)
        return kernels.touched_rows(*given, engine.placed, **options(engine)), found

    run = sharded(engine, of_device, (WHOLE, SHARDED, SHARDED), SHARDED)
    rows, values = fast_jit(run)(a_dense(engine), tables, batch)
    _, _, want = truth
    for name, table in want.items():
        dense = jnp.zeros(table.shape).at[rows[name]].add(values[name], mode="drop")
        np.testing.assert_allclose(dense, table, rtol=1e-4, atol=1e-5)
        mine = np.asarray(rows[name]).reshape(engine.devices, -1)
        assert (np.diff(mine, axis=1) >= 0).all()
        used = mine[mine != kernels.NO_ROW]
        assert len(set(used)) == len(used)


def test_a_training_step_through_grad_is_that_of_lookup_and_update(engine, ids):
    batch, tables = engine.encode(ids)[0], engine.tables()

    def with_grad(dense, tables, batch, step):
        def loss(dense, tables):
            looked_up = kernels.updating_lookup(
                batch, tables, engine.placed, step=step, frozen_tables=["days"], **options(engine)
            )
            return model(dense, looked_up)

        return jax.grad(loss, argnums=1)(dense, tables)

    def by_hand(dense, tables, batch, step):
        looked_up = kernels.tpu_sparse_dense_matmul(batch, tables, engine.placed, **options(engine))
        gradients = jax.grad(model, argnums=1)(dense, looked_up)
        return kernels.tpu_sparse_dense_matmul_grad(
            gradients,
            batch,
            tables,
            engine.placed,
            step=step,
            frozen_tables=["days"],
            **options(engine),
        )

    results = []
    for function in (with_grad, by_hand):
        run = sharded(engine, function, (WHOLE, SHARDED, SHARDED, WHOLE), SHARDED)
        results.append(fast_jit(run)(a_dense(engine), tables, batch, 2))
    for mine, other in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_array_equal(mine, other)
    moved = kernels.unstack_tables(engine.plan, results[0])
    before = kernels.unstack_tables(engine.plan, tables)
    assert not np.array_equal(moved["items"], before["items"])
    np.testing.assert_array_equal(moved["days"], before["days"])
