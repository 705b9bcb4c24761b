"""Copies of a state: equal, apart from it, in memory that is used again, and free of the step."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from kernels import FeatureSpec
from tests.workers.test_relayout import features, like, mesh_of, plan_of, state_of
from workers import snapshots
from workers.checkpoint import About, Checkpoints
from workers.snapshots import Snapshots


def a_tree() -> dict[str, jax.Array]:
    mesh = mesh_of(4)
    rows, everywhere = (NamedSharding(mesh, PartitionSpec(*axis)) for axis in (("device",), ()))
    generator = np.random.default_rng(0)
    return {
        "rows": jax.device_put(generator.random((96, 5), np.float32), rows),
        "narrow": jax.device_put(jnp.asarray(generator.random((8, 3)), jnp.bfloat16), rows),
        "everywhere": jax.device_put(np.arange(7), everywhere),
        "scalar": jax.device_put(jnp.int32(3), everywhere),
        "empty": jax.device_put(np.zeros((0, 4), np.float32), everywhere),
        "key": jax.device_put(jax.random.key(1), everywhere),
    }


def pointers(array: jax.Array) -> list[int]:
    return [shard.data.unsafe_buffer_pointer() for shard in array.addressable_shards]


@pytest.mark.parametrize("block_bytes", [1, 100, 1 << 20])
@pytest.mark.parametrize("reserved", [False, True])
def test_a_copy_is_equal_and_apart(
    block_bytes: int, reserved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "BLOCK_BYTES", block_bytes)
    tree, taker = a_tree(), Snapshots()
    if reserved:
        taker.reserve(tree)
    copy = taker.take(tree)
    assert copy["key"] is tree["key"]
    for name in tree.keys() - {"key"}:
        assert copy[name].sharding == tree[name].sharding
        assert copy[name].dtype == tree[name].dtype
        np.testing.assert_array_equal(copy[name], tree[name])
    assert not set(pointers(copy["rows"])) & set(pointers(tree["rows"]))
    taker.close()


def test_memory_is_used_again_and_follows_the_tree() -> None:
    tree, taker = a_tree(), Snapshots()
    first = pointers(taker.take(tree)["rows"])
    later = taker.take(tree | {"rows": tree["rows"] + 1})
    assert pointers(later["rows"]) == first, "neither new memory, nor a copy made by JAX"
    np.testing.assert_array_equal(later["rows"], tree["rows"] + 1)
    other = {"rows": jnp.arange(10.0)}
    np.testing.assert_array_equal(taker.take(other)["rows"], other["rows"])
    taker.close()


@pytest.fixture(scope="module")
def specs() -> list[FeatureSpec]:
    return features((600, 20))


def test_the_next_step_updates_in_place_while_the_state_is_saved(
    specs: list[FeatureSpec], tmp_path: Path
) -> None:
    plan = plan_of(specs, 2, 1, True)
    state = state_of(plan, specs, 3)
    step = jax.jit(lambda tables: jax.tree.map(lambda one: one + 1.0, tables), donate_argnums=0)
    # Arrays made from numpy may lie in numpy's own memory, which JAX never gives away.
    state = state._replace(tables=step(state.tables))
    expected = jax.device_get(state.tables)
    checkpoints = Checkpoints(tmp_path, About(plan, "p"))
    checkpoints.reserve(state)
    for number in (1, 2):
        checkpoints.save(number, state)
        before = [pointers(one) for one in jax.tree.leaves(state.tables)]
        state = state._replace(tables=step(state.tables))
        after = [pointers(one) for one in jax.tree.leaves(state.tables)]
        assert after == before, "a table was copied, as its save still held it"
        checkpoints.wait()
        restored = checkpoints.restore(number, like(state), lambda state=state: state)
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(restored.tables), expected)
        expected = jax.tree.map(lambda one: one + 1.0, expected)
    checkpoints.close()
