"""Stacks of activations and gradients come apart and together as in jax-tpu-embedding."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from tests.kernels import peer
from tests.kernels.support import feature, several_features, table


def placed(devices: int, per_device: int):
    specs = several_features(4 * devices * per_device)
    theirs = peer.specs_like(specs)
    kernels.auto_stack_tables(specs, devices, per_device)
    peer.embedding.auto_stack_tables(theirs, devices, per_device)
    return specs, theirs


@given(devices=st.integers(1, 3), per_device=st.sampled_from([2, 4]), seed=st.integers(0, 99))
@settings(max_examples=10, deadline=None)
def test_both_ways_are_the_same_and_inverse(devices, per_device, seed):
    specs, theirs = placed(devices, per_device)
    rng = np.random.default_rng(seed)
    stacks = {
        name: rng.normal(size=(stack.total_sample_count // devices, stack.stack_embedding_dim))
        for name, stack in kernels.get_stacked_table_specs(specs).items()
    }
    stacks = {name: jnp.asarray(stack, jnp.float32) for name, stack in stacks.items()}
    mine = kernels.unstack_embedding_activations(stacks, specs, devices, per_device)
    want = peer.embedding.unstack_embedding_activations(stacks, theirs, devices, per_device)
    assert mine.keys() == want.keys()
    for name in mine:
        np.testing.assert_array_equal(mine[name], want[name])
    again = kernels.stack_embedding_gradients(mine, specs, per_device)
    other = peer.embedding.stack_embedding_gradients(mine, theirs, per_device)
    for name, stack in stacks.items():
        np.testing.assert_array_equal(again[name], other[name])
        np.testing.assert_array_equal(again[name][:, :12], stack[:, :12])
        assert not np.any(again[name][:, 12:])


def test_stacks_of_one_column_may_have_no_columns():
    specs = {n: feature(n, table("t", 9, 1), 16) for n in ("a", "b")}
    kernels.prepare_feature_specs_for_training(specs, 2, 2)
    theirs = peer.placed_like(specs)
    stack = {"t": jnp.arange(16.0)}
    mine = kernels.unstack_embedding_activations(stack, specs, 2, 2)
    want = peer.embedding.unstack_embedding_activations(stack, theirs, 2, 2)
    for name in specs:
        assert mine[name].shape == (8,)
        np.testing.assert_array_equal(mine[name], want[name])


def test_gradients_may_come_in_other_shapes_and_with_fewer_columns():
    spec = feature("f", table("t", 9, 6), 16)
    kernels.prepare_feature_specs_for_training([spec], 1, 2)
    rows = jnp.arange(96.0).reshape(16, 6)
    (want,) = kernels.stack_embedding_gradients([rows], [spec], 2).values()
    for shape in ((16, 1, 6), (4, 4, 6), (4, 24), (96,)):
        (got,) = kernels.stack_embedding_gradients([rows.reshape(shape)], [spec], 2).values()
        np.testing.assert_array_equal(got, want)
    (few,) = kernels.stack_embedding_gradients([rows[:, :4]], [spec], 2).values()
    np.testing.assert_array_equal(few[:, :4], rows[:, :4])
    assert few.shape == (16, 8)
    assert not np.any(few[:, 4:])


def test_what_does_not_fit_is_refused():
    spec = feature("f", table("t", 9, 6), 16)
    kernels.prepare_feature_specs_for_training([spec], 1, 2)
    with pytest.raises(ValueError, match="must be divisible by the number of feature slices"):
        kernels.unstack_embedding_activations({"t": jnp.zeros((15, 8))}, [spec], 1, 2)
    with pytest.raises(ValueError, match="Pytree structures of feature_specs and activation_grad"):
        kernels.stack_embedding_gradients({"f": jnp.zeros((16, 6))}, [spec], 2)
    spec.output_shape = (16, 7)
    with pytest.raises(ValueError, match="cannot be more than the \\(original, unpadded\\)"):
        kernels.unstack_embedding_activations({"t": jnp.zeros((16, 8))}, [spec], 1, 2)
