from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import kernels
from kernels import utils
from kernels.layers import embed_optimizer, linen
from kernels.layers.linen import EMBEDDING_PARAM_NAME, SparseCoreEmbed
from tests.kernels.layer_models import (
    BATCH,
    DEVICES,
    PER_DEVICE,
    LinenModel,
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
from tests.kernels.support import fast_jit


@pytest.fixture(autouse=True)
def four_sparsecores(monkeypatch):
    monkeypatch.setenv(utils.EMULATED_SPARSECORES, str(PER_DEVICE))


def layer_of(specs, **options):
    mesh = options.pop("mesh", None) or mesh_of()
    return SparseCoreEmbed(feature_specs=specs, sharding_axis="x", _mesh=mesh, **options)


def train_step(model, tx):
    """The step of an ordinary flax training loop."""

    def one(params, state, step, batch, labels):
        value, gradients = jax.value_and_grad(
            lambda params: loss_of(model.apply(params, batch, step), labels)
        )(params)
        updates, state = tx.update(gradients, state, params)
        return embed_optimizer.apply_updates_for_sc_model(params, updates), state, value

    return one


def trained(model, params, data, optimizer):
    """An ordinary flax training loop."""
    tx = embed_optimizer.create_optimizer_for_sc_model(params, optimizer)
    state = tx.init(params)
    one = fast_jit(train_step(model, tx), donate_argnums=0)
    losses = []
    for step, (ids, labels) in enumerate(data):
        batch = model.layer.preprocess_inputs(step, ids, None)
        params, state, value = one(params, state, step, batch, labels)
        losses.append(float(value))
    return params, losses


def test_a_training_loop_learns_as_with_plain_tables():
    specs = feature_specs(kernels.AdagradOptimizerSpec(lambda step: 0.1 / (1 + step)))
    model = LinenModel(layer_of(specs))
    data = list(batches(6, specs))
    first = model.layer.preprocess_inputs(0, data[0][0], None)
    params = fast_jit(model.init)(jax.random.key(1), first)
    variables = params["params"]["layer"][EMBEDDING_PARAM_NAME].value
    begin = whole(specs, variables)
    dense = {key: value for key, value in params["params"].items() if key != "layer"}

    def apply_dense(dense, activations):
        hidden = jnp.tanh(
            joined(activations) @ dense["Dense_0"]["kernel"] + dense["Dense_0"]["bias"]
        )
        return hidden @ dense["Dense_1"]["kernel"] + dense["Dense_1"]["bias"]

    want, want_dense, want_losses = train_plainly(
        specs, begin, jax.tree.map(jnp.array, dense), apply_dense, optax.adam(0.05), data
    )
    params, losses = trained(model, params, data, optax.adam(0.05))
    np.testing.assert_allclose(losses, want_losses, rtol=1e-4)
    after = params["params"]
    assert_same_tables(whole(specs, after["layer"][EMBEDDING_PARAM_NAME].value), want)
    for name, value in want_dense.items():
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), after[name], value
        )


@pytest.mark.parametrize(("stack", "minibatches"), [(True, False), (False, False), (True, True)])
def test_forward_and_gradient_with_rows_that_are_known(stack, minibatches):
    """Each row holds its id in all columns: activations are sums of ids, steps are counts."""
    specs = feature_specs(kernels.SGDOptimizerSpec(0.01), stack=stack)
    layer = layer_of(specs, enable_minibatching=minibatches)
    ids, _ = next(batches(1, specs))
    batch = layer.preprocess_inputs(42, ids, None)
    shapes = jax.eval_shape(layer.init, jax.random.PRNGKey(0), batch)
    params = jax.jit(
        layer.init,
        in_shardings=(
            NamedSharding(layer.mesh, PartitionSpec()),
            NamedSharding(layer.mesh, layer.data_partition),
        ),
        out_shardings=nn.get_sharding(shapes, layer.mesh),
    )(jax.random.PRNGKey(0), batch)
    box = params["params"][EMBEDDING_PARAM_NAME]
    assert isinstance(box, linen.WithSparseCoreLayout)
    logical, stacked = with_rows_that_hold_their_id(specs, box.value)
    params["params"][EMBEDDING_PARAM_NAME] = box.replace_boxed(stacked)

    activations = fast_jit(layer.apply)(params, batch)
    assert_sums_of_ids(activations, ids)

    ones = jax.tree.map(jnp.ones_like, activations)
    run = fast_jit(functools.partial(layer.apply, method=layer.apply_gradient))
    updates = run(params, ones, batch)
    assert updates.keys() == {EMBEDDING_PARAM_NAME}
    assert jax.tree.structure(updates[EMBEDDING_PARAM_NAME]) == jax.tree.structure(box.value)
    after = whole(specs, updates[EMBEDDING_PARAM_NAME])
    assert_moved_by_counts(specs, after, logical, ids, 0.01)


@pytest.mark.parametrize("donate", [True, False])
def test_a_step_changes_tables_in_place(monkeypatch, donate):
    monkeypatch.setenv(utils.EMULATED_SPARSECORES, "1")
    specs = one_large_table()
    model = LinenModel(layer_of(specs))
    ids, labels = np.zeros((BATCH, 2), np.int32), np.zeros(BATCH, np.float32)
    batch = model.layer.preprocess_inputs(0, {"large": ids}, None)
    params = jax.jit(model.init)(jax.random.key(0), batch)
    tx = embed_optimizer.create_optimizer_for_sc_model(params, optax.adam(0.1))
    run = jax.jit(train_step(model, tx), donate_argnums=(0, 1) if donate else ())
    text = run.lower(params, tx.init(params), 0, batch, labels).compile().as_text()
    assert bool(copies_of_the_large_table(text)) != donate


def made(layer, specs):
    """Encoded ids, and parameters without flax's boxes, in numpy."""
    ids, _ = next(batches(1, specs))
    batch = layer.preprocess_inputs(0, ids, None)
    params = fast_jit(layer.init)(jax.random.key(0), batch)
    return batch, jax.tree.map(np.asarray, nn.meta.unbox(params))


def test_a_mesh_with_other_axes_and_rows_over_two_axes():
    specs = feature_specs()
    plain = layer_of(specs)
    batch, params = made(plain, specs)

    def both_ways(layer):
        def run(params, batch):
            activations = layer.apply(params, batch)
            ones = jax.tree.map(jnp.ones_like, activations)
            return activations, layer.apply(params, ones, batch, method="apply_gradient")

        return jax.tree.map(np.asarray, fast_jit(run)(params, batch))

    devices = np.array(jax.devices()[:8])
    beside = SparseCoreEmbed(specs, "x", Mesh(devices.reshape(2, 4), ("model", "x")))
    over_two = SparseCoreEmbed(specs, ("a", "x"), Mesh(devices[:4].reshape(2, 2), ("a", "x")))
    assert beside.num_shards == over_two.num_shards == 4
    want = both_ways(plain)
    for layer in (beside, over_two):
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
            both_ways(layer), want,
        )  # fmt: skip
    with pytest.raises(kernels.SpecError, match="sharding_axis names"):
        SparseCoreEmbed(specs, "rows", mesh_of()).apply(params, batch)


def test_activations_have_the_type_of_the_tables():
    specs = feature_specs(kernels.SGDOptimizerSpec(0.1))
    layer = layer_of(specs)
    batch, params = made(layer, specs)
    half = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), params)

    def loss(params, batch):
        activations = layer.apply(params, batch)
        assert all(leaf.dtype == jnp.bfloat16 for leaf in activations.values())
        return sum(leaf.sum() for leaf in activations.values()).astype(jnp.float32)

    value, new = fast_jit(jax.value_and_grad(loss))(half, batch)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(new))
    assert np.isfinite(value)


def test_before_init_there_is_no_table():
    layer = layer_of(feature_specs())
    assert layer.mesh.size == DEVICES
    assert layer.embedding_table_partition == PartitionSpec("x", None)
    assert layer.num_sc_per_device == PER_DEVICE
    assert SparseCoreEmbed(feature_specs(), num_sc_per_device=2).num_sc_per_device == 2
    assert SparseCoreEmbed(feature_specs()).mesh.axis_names == ("sparsecore_sharding",)


def test_the_optimizer_replaces_tables_and_adds_to_the_rest():
    class Params(struct.PyTreeNode):
        params: dict

    ones = lambda: jnp.array([1.0, 2.0])  # noqa: E731
    before = Params(
        {"layer": {EMBEDDING_PARAM_NAME: {"value": {"t": ones()}}}, "Dense_0": {"bias": ones()}}
    )
    tx = embed_optimizer.create_optimizer_for_sc_model(before, optax.sgd(0.1))
    given = jax.tree.map(lambda leaf: leaf * 10, before)
    updates, _ = tx.update(given, tx.init(before), before)
    after = embed_optimizer.apply_updates_for_sc_model(before, updates).params
    np.testing.assert_array_equal(after["layer"][EMBEDDING_PARAM_NAME]["value"]["t"], [10, 20])
    np.testing.assert_allclose(after["Dense_0"]["bias"], [0, 0], atol=1e-6)
