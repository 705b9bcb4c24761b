from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import kernels
from tests.kernels.minibatching import in_minibatches
from tests.kernels.support import AXIS, Engine, fast_jit, random_ids, several_features


def emulated_ragged_all_to_all(
    operand, output, input_offsets, send_sizes, output_offsets, recv_sizes, *, axis_name
):
    """What its documentation says it does, by gathering everything everywhere.

    Rows that no device sends to a place keep those of ``output``; sizes that sender and receiver
    disagree on poison the result.
    """
    here = jax.lax.axis_index(axis_name)
    everything, starts, sizes, places = (
        jax.lax.all_gather(value, axis_name)
        for value in (operand, input_offsets, send_sizes, output_offsets)
    )
    index = jnp.arange(output.shape[0])
    for sender in range(everything.shape[0]):
        size, place = sizes[sender, here], places[sender, here]
        sent = everything[sender][jnp.clip(index - place + starts[sender, here], 0, len(operand))]
        arrives = (index >= place) & (index < place + size)
        shape = (-1,) + (1,) * (output.ndim - 1)
        output = jnp.where(arrives.reshape(shape), sent, output)
        output = jnp.where(size == recv_sizes[sender], output, jnp.asarray(99, output.dtype))
    return output


def step(engine, batch, tables, gradients, **options):
    activations = kernels.tpu_sparse_dense_matmul(
        batch,
        tables,
        engine.placed,
        global_device_count=engine.devices,
        num_sc_per_device=engine.per_device,
        **options,
    )
    updated = kernels.tpu_sparse_dense_matmul_grad(
        gradients,
        batch,
        tables,
        engine.placed,
        num_sc_per_device=engine.per_device,
        **options,
    )
    return activations, updated


def sharded(engine, **options):
    spec = PartitionSpec(engine.mesh.axis_names)
    return jax.shard_map(
        functools.partial(step, engine, **options),
        mesh=engine.mesh,
        in_specs=spec,
        out_specs=spec,
        check_vma=False,
    )


def a_batch(engine, seed=0):
    rng = np.random.default_rng(seed)
    gradients = {
        name: rng.normal(size=spec.output_shape).astype(np.float32)
        for name, spec in engine.specs.items()
    }
    return engine.encode(random_ids(engine.specs, seed))[0], engine.tables(), gradients


def test_sending_used_places_only_gives_the_same_bits(monkeypatch):
    devices, per_device, minibatches = 2, 2, 3
    engine = Engine(several_features(16), devices, per_device)
    batch, tables, gradients = a_batch(engine)
    batch = in_minibatches(batch, devices, per_device, minibatches)
    # On a CPU, the backend of GPUs.
    options = {"enable_minibatching": True, "platform": "gpu"}
    want = fast_jit(sharded(engine, **options))(batch, tables, gradients)
    monkeypatch.setenv("EMBERAY_EXCHANGE", "ragged")
    monkeypatch.setattr(jax.lax, "ragged_all_to_all", emulated_ragged_all_to_all)
    run = sharded(engine, **options)
    assert "all_gather" in str(jax.make_jaxpr(run)(batch, tables, gradients))
    got = fast_jit(run)(batch, tables, gradients)
    for mine, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize("axes", [(AXIS,), ("a", "b")])
def test_the_ragged_exchange_lowers_for_gpus(axes, monkeypatch):
    monkeypatch.setenv("EMBERAY_EXCHANGE", "ragged")
    engine = Engine(several_features(16), 4)
    batch, tables, gradients = jax.tree.map(np.asarray, a_batch(engine))
    kinds = (jax.sharding.AxisType.Auto,) * len(axes)
    shape = (4,) if len(axes) == 1 else (2, 2)
    engine.mesh = jax.make_mesh(shape, axes, devices=jax.devices()[:4], axis_types=kinds)
    traced = jax.jit(sharded(engine, platform="cuda")).trace(batch, tables, gradients)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    # Lookup: requests there, rows back. Update: requests and gradients there.
    assert text.count("@ragged_all_to_all") == 4
    monkeypatch.setenv("EMBERAY_EXCHANGE", "padded")
    traced = jax.jit(sharded(engine, platform="cuda")).trace(batch, tables, gradients)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "ragged" not in text
    assert text.count("stablehlo.all_to_all") == 4
    monkeypatch.setenv("EMBERAY_EXCHANGE", "pigeon")
    with pytest.raises(kernels.SpecError, match="EMBERAY_EXCHANGE is 'pigeon'"):
        sharded(engine, platform="cuda")(batch, tables, gradients)
