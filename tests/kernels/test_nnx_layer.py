from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

import kernels
from kernels import utils
from kernels.layers import nnx as embed
from tests.kernels.layer_models import (
    BATCH,
    PER_DEVICE,
    NnxModel,
    assert_moved_by_counts,
    assert_same_tables,
    assert_sums_of_ids,
    batches,
    copies_of_the_large_table,
    feature_specs,
    joined,
    loss_of,
    mesh_of,
    one_large_table,
    train_plainly,
    whole,
    with_rows_that_hold_their_id,
)


@pytest.fixture(autouse=True)
def four_sparsecores(monkeypatch):
    monkeypatch.setenv(utils.EMULATED_SPARSECORES, str(PER_DEVICE))


def encoded(ids, specs, mesh, per_device=PER_DEVICE):
    batch = kernels.preprocess_sparse_dense_matmul_input(
        ids, None, specs, mesh.local_mesh.size, mesh.size, num_sc_per_device=per_device
    )[0]
    sharding = NamedSharding(mesh, PartitionSpec("x"))
    return jax.tree.map(lambda a: jax.make_array_from_process_local_data(sharding, a), batch)


def train_step(model, optimizer, mesh):
    """The step of an ordinary nnx training loop, with the shardings of its arguments given."""
    shardings = (
        embed.get_named_sharding(model, mesh),
        embed.get_named_sharding(optimizer, mesh),
        NamedSharding(mesh, PartitionSpec("x")),
        NamedSharding(mesh, PartitionSpec("x")),
        None,
    )

    @nnx.jit(in_shardings=shardings, donate_argnames=["model", "optimizer"])
    def one(model, optimizer, batch, labels, step):
        value, gradients = nnx.value_and_grad(
            lambda model: loss_of(model(batch, step), labels), allow_int=True
        )(model)
        optimizer.update(model, gradients)
        return value

    return one


def trained(model, optimizer, specs, mesh, data):
    """An ordinary nnx training loop."""
    one = train_step(model, optimizer, mesh)
    return [
        float(one(model, optimizer, encoded(ids, specs, mesh), labels, jnp.int32(step)))
        for step, (ids, labels) in enumerate(data)
    ]


def test_a_training_loop_learns_as_with_plain_tables():
    """On some of the devices, and with rates that follow the step."""
    kind, devices = kernels.AdamOptimizerSpec(lambda step: 0.1 / (1 + step)), 2
    specs, mesh = feature_specs(kind, devices), mesh_of(devices)
    model = NnxModel(specs, mesh)
    optimizer = embed.PartitionedOptimizer(model, optax.adam(0.05))
    data = list(batches(6, specs))
    begin = whole(specs, model.embedding.embedding_table.get_value(), devices)
    dense = {
        name: (getattr(model, name).kernel.get_value(), getattr(model, name).bias.get_value())
        for name in ("hidden", "out")
    }

    def apply_dense(dense, activations):
        (kernel, bias), (out_kernel, out_bias) = dense["hidden"], dense["out"]
        return jnp.tanh(joined(activations) @ kernel + bias) @ out_kernel + out_bias

    want, want_dense, want_losses = train_plainly(
        specs, begin, jax.tree.map(jnp.array, dense), apply_dense, optax.adam(0.05), data
    )
    losses = trained(model, optimizer, specs, mesh, data)
    np.testing.assert_allclose(losses, want_losses, rtol=1e-4)
    found = whole(specs, model.embedding.embedding_table.get_value(), devices)
    assert_same_tables(found, want)
    for name, (kernel, bias) in want_dense.items():
        layer = getattr(model, name)
        np.testing.assert_allclose(layer.kernel.get_value(), kernel, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(layer.bias.get_value(), bias, rtol=1e-3, atol=1e-4)


def test_a_step_changes_tables_in_place(monkeypatch):
    monkeypatch.setenv(utils.EMULATED_SPARSECORES, "1")
    specs, mesh = one_large_table(), mesh_of()
    model = NnxModel(specs, mesh)
    optimizer = embed.PartitionedOptimizer(model, optax.adam(0.1))
    batch = encoded({"large": np.zeros((BATCH, 2), np.int32)}, specs, mesh, 1)
    run = train_step(model, optimizer, mesh)
    lowered = run.lower(model, optimizer, batch, np.zeros(BATCH, np.float32), jnp.int32(0))
    assert not copies_of_the_large_table(lowered.compile().as_text())


@pytest.mark.parametrize("with_step", [True, False])
def test_the_backward_pass_can_be_called_by_itself(with_step):
    """With rows that hold their id: activations are sums of ids, steps are counts."""
    specs, mesh = feature_specs(kernels.SGDOptimizerSpec(0.01)), mesh_of()
    layer = embed.SparseCoreEmbed(specs, "x", mesh, nnx.Rngs(params=1337))
    ids, _ = next(batches(1, specs))
    batch = encoded(ids, specs, mesh)
    begin = layer.embedding_table.get_value()
    logical, stacked = with_rows_that_hold_their_id(specs, begin)
    layer.embedding_table.set_value(stacked)

    activations = nnx.jit(lambda *given: embed.embedding_lookup(*given))(layer, batch)
    assert_sums_of_ids(activations, ids)

    ones = jax.tree.map(jnp.ones_like, activations)
    updates = ({"embedding_table": layer.embedding_table.copy()}, batch)
    kept = (layer, batch)
    if with_step:
        updates, kept = (*updates, None), (*kept, jnp.int32(3))
    found, *others = nnx.jit(embed.embedding_lookup_bwd)(kept, (updates, ones))
    assert len(others) == len(kept) - 1
    nnx.update(layer, found)
    after = whole(specs, layer.embedding_table.get_value())
    assert_moved_by_counts(specs, after, logical, ids, 0.01)


def test_filters_and_shardings_tell_tables_from_the_rest():
    specs, mesh = feature_specs(), mesh_of()
    model = NnxModel(specs, mesh)
    tables = nnx.state(model, embed.is_embedding_variables)
    rest = nnx.state(model, embed.is_non_embedding_variables)
    assert list(tables) == ["embedding"]
    assert sorted(rest) == ["hidden", "out"]
    rows = NamedSharding(mesh, PartitionSpec("x", None))
    assert model.embedding.embedding_table.embedding_sharding == rows
    shardings = embed.get_named_sharding(model, mesh)
    assert dict(zip(map(str, shardings.filters), shardings.shardings, strict=True)) == {
        "PathIn(('embedding', 'embedding_table'))": rows,
        str(shardings.filters[1]): NamedSharding(mesh, PartitionSpec()),
    }
    assert (model.embedding.num_shards, model.embedding.num_sc_per_device) == (4, 4)
