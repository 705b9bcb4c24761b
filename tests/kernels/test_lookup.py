from __future__ import annotations

import dataclasses
import functools
import re

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import kernels
from kernels.backends import select_backend
from tests.kernels.minibatching import in_minibatches
from tests.kernels.support import (
    AXIS,
    Engine,
    fast_jit,
    feature,
    random_ids,
    several_features,
    table,
    true_lookup,
)


def test_several_stacks_and_narrow_outputs():
    specs = several_features(16) | {"other": feature("other", table("other", 40, 20), 16, 3)}
    specs["user"] = dataclasses.replace(specs["user"], output_shape=(16, 7))
    engine = Engine(specs, 4)
    assert len(engine.plan.stacks) == 2
    tables = engine.tables()
    ids = random_ids(specs, 1)
    got = engine.lookup(engine.encode(ids)[0], tables)
    want = true_lookup(specs, kernels.unstack_tables(engine.plan, tables), ids)
    assert got["user"].shape == (16, 7)
    for name in specs:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=1e-6)


def test_specs_may_be_nested_and_one_table_alone():
    specs = {"a": [feature("one", table("t", 30), 8, 2)], "b": feature("two", table("u", 9), 8)}
    flat = {"one": specs["a"][0], "two": specs["b"]}
    engine = Engine(specs, 2, stack=False)
    ids = random_ids(flat, 0)
    tables = engine.tables()
    batch, _ = engine.encode({"a": [ids["one"]], "b": ids["two"]})
    got = engine.lookup(batch, tables)
    want = true_lookup(flat, kernels.unstack_tables(engine.plan, tables), ids)
    np.testing.assert_allclose(got["a"][0], want["one"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got["b"], want["two"], rtol=1e-5, atol=1e-6)


def test_limits_that_just_hold_the_batch_give_the_same_bits():
    specs = several_features(32)
    ids = random_ids(specs, 5)
    roomy = Engine(specs, 4)
    batch, stats = roomy.encode(ids)
    (name,) = roomy.plan.limits
    tight = kernels.Limits(
        int(stats.max_ids_per_partition[name].max()),
        int(stats.max_unique_ids_per_partition[name].max()),
        int(stats.required_buffer_size_per_sc[name].max()),
    )
    engine = Engine(specs, 4, limits={name: tight})
    first = roomy.lookup(batch, roomy.tables())
    second = engine.lookup(engine.encode(ids)[0], engine.tables())
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("devices", [1, 2])
def test_what_lies_in_unused_parts_of_the_buffers_does_not_matter(devices):
    specs = several_features(16)
    engine = Engine(specs, devices)
    batch, _ = engine.encode(random_ids(specs, 0))
    tables = engine.tables()
    (name,) = engine.plan.limits
    pointers = batch.lhs_row_pointers[name].reshape(devices, -1)[:, devices - 1]
    dirty = jax.tree.map(np.array, batch)
    for field in ("lhs_embedding_ids", "lhs_sample_ids", "lhs_gains"):
        parts = getattr(dirty, field)[name].reshape(devices, -1)
        for part, end in zip(parts, -(-pointers // 8) * 8, strict=True):
            part[end:] = 1
    a, b = engine.lookup(batch, tables), engine.lookup(dirty, tables)
    for mine, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize(("devices", "buckets", "kind"), [(1, 5, "ui8"), (2, 300, "ui16")])
def test_quantized_rows_travel_as_bucket_numbers(devices, buckets, kind):
    config = kernels.QuantizationConfig(min_value=-0.1, max_value=0.1, num_buckets=buckets)
    specs = {"f": feature("f", table("t", 30, quantization_config=config), 8, 1)}
    engine = Engine(specs, devices)
    tables = engine.tables()
    ids = random_ids(specs, 0, padding=False)
    batch, _ = engine.encode(ids)
    run = engine.sharded(
        kernels.tpu_sparse_dense_matmul, 2, global_device_count=devices, platform="gpu"
    )
    got = np.asarray(fast_jit(run)(batch, tables)["f"])
    rows = kernels.unstack_tables(engine.plan, tables)["t"][ids["f"][:, 0]]
    values = np.linspace(-0.1, 0.1, buckets)
    nearest = values[np.abs(rows[..., None] - values).argmin(-1)]
    np.testing.assert_allclose(got, nearest, atol=1e-6)
    text = jax.jit(run).lower(batch, tables).as_text()
    assert f"x{kind}>" in text
    if devices > 1:
        assert re.search(rf"all_to_all.*x8x{kind}>", text)


def test_stacked_activations_come_apart_and_go_together_again():
    specs = several_features(16)
    engine = Engine(specs, 1, 2)
    tables = engine.tables()
    batch, _ = engine.encode(random_ids(specs, 0))

    def look(**options):
        run = functools.partial(
            kernels.tpu_sparse_dense_matmul,
            feature_specs=engine.placed,
            global_device_count=1,
            num_sc_per_device=2,
            **options,
        )
        return fast_jit(run)(batch, tables)

    stacked = look(perform_unstacking=False)
    apart = kernels.unstack_embedding_activations(stacked, engine.placed, 1, 2)
    together = kernels.stack_embedding_gradients(apart, engine.placed, 2)
    for name, value in stacked.items():
        np.testing.assert_array_equal(value[:, :12], together[name][:, :12])
        assert not np.any(together[name][:, 12:])
    for mine, other in zip(jax.tree.leaves(apart), jax.tree.leaves(look()), strict=True):
        np.testing.assert_array_equal(mine, other)


def test_one_device_needs_no_shard_map_and_many_do():
    specs = several_features(16)
    engine = Engine(specs, 2)
    batch, tables = engine.encode(random_ids(specs, 0))[0], engine.tables()
    with pytest.raises(kernels.SpecError, match="there is no shard_map"):
        kernels.tpu_sparse_dense_matmul(
            batch, tables, engine.placed, global_device_count=2, num_sc_per_device=1
        )
    with pytest.raises(kernels.SpecError, match="shard_map here has 2 devices"):
        jax.eval_shape(
            engine.sharded(kernels.tpu_sparse_dense_matmul, 2, global_device_count=4),
            batch,
            tables,
        )


def test_mixed_up_arguments_are_refused():
    specs = several_features(16)
    engine, alone = Engine(specs, 1), Engine(specs, 1, stack=False)
    batch, tables = engine.encode(random_ids(specs, 0))[0], engine.tables()
    look = functools.partial(
        kernels.tpu_sparse_dense_matmul, global_device_count=1, num_sc_per_device=1
    )
    with pytest.raises(kernels.SpecError, match="preprocessed_inputs hold stacks"):
        look(batch, alone.tables(), alone.placed)
    with pytest.raises(kernels.SpecError, match="embedding_variables hold stacks"):
        look(batch, alone.tables(), engine.placed)
    with pytest.raises(kernels.SpecError, match="is not stacked"):
        look(batch, tables, specs)
    with pytest.raises(kernels.SpecError, match="encoded with enable_minibatching=False"):
        look(batch, tables, engine.placed, enable_minibatching=True)
    with pytest.raises(kernels.SpecError, match="encoded with enable_minibatching=True"):
        look(in_minibatches(batch, 1, 1, 2), tables, engine.placed)
    with pytest.raises(kernels.SpecError, match="8 row pointers on a device, but 1 devices of 3"):
        look(batch, tables, engine.placed, num_sc_per_device=3)
    with pytest.raises(kernels.SpecError, match=r"axis_names names \['rows'\]"):
        look(batch, tables, engine.placed, axis_names=["rows"])
    with pytest.raises(kernels.SpecError, match="'items_days_users' hold no array"):
        look(batch, {"items_days_users": ()}, engine.placed)
    with pytest.raises(kernels.SpecError, match="'abacus' has no embedding backend"):
        select_backend("abacus")


def test_a_mesh_of_two_axes_is_one_row_of_devices():
    specs = several_features(16)
    engine = Engine(specs, 4)
    kinds = (jax.sharding.AxisType.Auto,) * 2
    mesh = jax.make_mesh((2, 2), ("a", "b"), devices=jax.devices()[:4], axis_types=kinds)
    tables = jax.tree.map(np.asarray, engine.tables())
    batch, _ = engine.encode(random_ids(specs, 0))
    spec = PartitionSpec(("a", "b"))
    run = jax.shard_map(
        functools.partial(
            kernels.tpu_sparse_dense_matmul,
            feature_specs=engine.placed,
            global_device_count=4,
            num_sc_per_device=1,
        ),
        mesh=mesh,
        in_specs=(spec, spec),
        out_specs=spec,
        check_vma=False,
    )
    assert AXIS not in mesh.axis_names
    got, want = fast_jit(run)(batch, tables), engine.lookup(batch, engine.tables())
    for mine, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(mine, other)
