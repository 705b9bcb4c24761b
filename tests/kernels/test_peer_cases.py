"""Ways of calling lookup and update that programs written for jax-tpu-embedding use."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import kernels
from kernels.layout import from_shards, to_shards
from kernels.utils import NUM_SC_PER_DEVICE_MAP
from tests.kernels.support import fast_jit

CORES = 4
RATE = 0.25
IDS = np.array(
    [np.array(ids, np.int32) for ids in (
        [5, 4, 2], [3], [9], [1, 9, 16], [6, 12, 1, 10], [12, 19], [0, 15, 2, 25, 25], [4, 28],
        [15, 0], [13], [11], [7, 1], [8, 9], [14, 14, 14], [2, 28], [10, 16],
    )],
    dtype=object,
)  # fmt: skip
COUNTS = np.bincount(np.concatenate(list(IDS)), minlength=32)


@pytest.fixture(autouse=True)
def four_sparsecores(monkeypatch):
    """Every CPU device counts as one with four SparseCores."""
    monkeypatch.setitem(NUM_SC_PER_DEVICE_MAP, jax.devices()[0].device_kind, CORES)


def features(devices, *, learning_rate=RATE, stack=False, **limits):
    """Two features of 16 samples, on a table each; specs are stacked in place."""
    specs = {}
    for name, columns in (("a", 6), ("b", 8)):
        mine = kernels.TableSpec(
            name=f"table_{name}",
            vocabulary_size=32,
            embedding_dim=columns,
            initializer=jax.nn.initializers.zeros,
            optimizer=kernels.SGDOptimizerSpec(learning_rate),
            combiner="sum",
            **limits,
        )
        specs[name] = kernels.FeatureSpec(
            name=name, table_spec=mine, input_shape=(16, 1), output_shape=(16, columns)
        )
    prepare = kernels.auto_stack_tables if stack else kernels.prepare_feature_specs_for_training
    prepare(specs, global_device_count=devices, num_sc_per_device=CORES)
    return specs


def tables_of(specs, devices):
    """By stack, rows that hold their own id (of ``b``, 100 more)."""
    result = {}
    for name, stack in kernels.get_stacked_table_specs(specs).items():
        result[name] = np.zeros((stack.stack_vocab_size, stack.stack_embedding_dim), np.float32)
    for name, spec in kernels.get_table_specs(specs).items():
        rows = np.arange(32, dtype=np.float32) + (100 if name == "table_b" else 0)
        place = spec.setting_in_stack
        to_shards(
            result[place.stack_name],
            np.repeat(rows[:, None], spec.embedding_dim, axis=1),
            devices * CORES,
            rotation=place.shard_rotation,
            row_offset=place.row_offset_in_shard,
        )
    return result


def encoded(specs, devices, **options):
    batch, _ = kernels.preprocess_sparse_dense_matmul_input(
        {"a": IDS, "b": IDS}, None, specs, devices, devices, **options
    )
    return batch


def assert_looked_up(activations, shape=(16,)):
    sums = np.array([ids.sum() for ids in IDS], np.float32)
    sums_b = sums + 100 * np.array([len(ids) for ids in IDS], np.float32)
    for got, want, columns in ((activations["a"], sums, 6), (activations["b"], sums_b, 8)):
        want = np.repeat(want[:, None], columns, axis=1)
        np.testing.assert_array_equal(got, want.reshape(*shape, columns))


def assert_updated(specs, devices, updated, rate=RATE):
    """With gradients of 1, a row has moved by the rate times the times its id was there."""
    for name, spec in kernels.get_table_specs(specs).items():
        place = spec.setting_in_stack
        rows = from_shards(
            np.asarray(jax.tree.leaves(updated[place.stack_name])[0]),
            devices * CORES,
            32,
            spec.embedding_dim,
            rotation=place.shard_rotation,
            row_offset=place.row_offset_in_shard,
        )
        before = np.arange(32) + (100 if name == "table_b" else 0)
        want = np.repeat((before - rate * COUNTS)[:, None], spec.embedding_dim, axis=1)
        np.testing.assert_array_equal(rows, want.astype(np.float32))


def test_lookup_under_pmap():
    specs = features(2, stack=True)
    batch = encoded(specs, 2, has_leading_dimension=True)
    tables = {
        name: kernels.EmbeddingVariables(rows.reshape(2, -1, rows.shape[1]), ())
        for name, rows in tables_of(specs, 2).items()
    }
    look = functools.partial(
        kernels.tpu_sparse_dense_matmul, feature_specs=specs, global_device_count=2
    )
    assert_looked_up(jax.pmap(look)(batch, tables), (2, 8))


def test_one_device_without_shard_map_and_variables_in_plain_tuples():
    specs = features(1)
    batch, given = encoded(specs, 1), tables_of(specs, 1)
    tables = {name: kernels.EmbeddingVariables(rows, ()) for name, rows in given.items()}
    look = functools.partial(
        kernels.tpu_sparse_dense_matmul,
        feature_specs=specs,
        global_device_count=1,
        use_activation_unstack_primitive=True,
    )
    assert_looked_up(fast_jit(look)(batch, tables))
    update = functools.partial(
        kernels.tpu_sparse_dense_matmul_grad,
        feature_specs=specs,
        global_device_count=1,
        use_gradient_stacking_primitive=True,
    )
    ones = {"a": jnp.ones((16, 6)), "b": jnp.ones((16, 8))}
    plain = {name: (rows,) for name, rows in given.items()}
    updated = fast_jit(update)(ones, batch, plain)
    assert jax.tree.structure(updated) == jax.tree.structure(plain)
    assert_updated(specs, 1, updated)


def test_four_devices_of_four_sparsecores_with_a_rate_that_follows_the_step():
    specs = features(4, learning_rate=lambda step: RATE / (step + 1), stack=True)
    batch, given = encoded(specs, 4), tables_of(specs, 4)
    (name,) = given
    mesh = Mesh(jax.devices()[:4], "x")
    rows, whole = PartitionSpec("x"), PartitionSpec()
    tables = {name: (jax.device_put(given[name], NamedSharding(mesh, rows)),)}

    def step_of_device(batch, tables, step):
        variables = {name: kernels.EmbeddingVariables(tables[name][0], ())}
        activations = kernels.tpu_sparse_dense_matmul(
            batch, variables, specs, global_device_count=4
        )
        ones = jax.tree.map(jnp.ones_like, activations)
        return activations, kernels.tpu_sparse_dense_matmul_grad(
            ones, batch, tables, specs, step=step
        )

    run = fast_jit(
        jax.shard_map(
            step_of_device,
            mesh=mesh,
            in_specs=(rows, rows, whole),
            out_specs=rows,
            check_vma=False,
        )
    )
    for step in (0, 3):
        activations, updated = run(batch, tables, jnp.int32(step))
        assert_looked_up(activations)
        assert_updated(specs, 4, updated, RATE / (step + 1))


def test_a_batch_that_needs_minibatches_gives_what_one_without_gives():
    specs = features(1, max_ids_per_partition=2, max_unique_ids_per_partition=2)
    batch = encoded(specs, 1, enable_minibatching=True)
    assert (np.asarray(batch.num_minibatches) > 1).all()
    tables = {
        name: kernels.EmbeddingVariables(rows, ()) for name, rows in tables_of(specs, 1).items()
    }

    def step(batch, tables):
        options = {"feature_specs": specs, "enable_minibatching": True}
        activations = kernels.tpu_sparse_dense_matmul(
            batch, tables, global_device_count=1, **options
        )
        ones = jax.tree.map(jnp.ones_like, activations)
        return activations, kernels.tpu_sparse_dense_matmul_grad(ones, batch, tables, **options)

    activations, updated = fast_jit(step)(batch, tables)
    assert_looked_up(activations)
    assert_updated(specs, 1, updated)
