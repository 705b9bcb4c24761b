"""Sizes known before any id is: jax-tpu-embedding's, and those of the arrays that come."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax_tpu_embedding.sparsecore.lib.core import pybind_input_preprocessing as wheel

import kernels
from tests.kernels import peer
from tests.kernels.support import Engine, random_ids, several_features

MESH = st.tuples(st.sampled_from([1, 2, 4, 8, 64]), st.sampled_from([1, 2, 4]))


@given(MESH, st.booleans(), st.integers(1, 5000))
@settings(max_examples=100, deadline=None)
def test_sizes_are_the_peers(mesh, minibatching, most):
    devices, per_device = mesh
    shape = {"global_device_count": devices, "num_sc_per_device": per_device}
    shape |= {"enable_minibatching": minibatching}
    mine = kernels.compute_row_pointers_size_per_device(**shape)
    assert mine == wheel.compute_row_pointers_size_per_device(**shape)
    mine = kernels.compute_theoretical_max_coo_buffer_size(most, **shape)
    assert mine == wheel.compute_theoretical_max_coo_buffer_size(most, **shape)


@given(
    st.sampled_from([(1, 1), (1, 4), (4, 2)]),
    st.booleans(),
    st.integers(1, 100),
    st.none() | st.integers(1, 100),
)
@settings(max_examples=60, deadline=None)
def test_buffers_are_as_large_as_the_peers(mesh, minibatching, most, suggested):
    devices, per_device = mesh
    engine = Engine(several_features(devices * per_device), devices, per_device)
    most = max(most, suggested or 0)  # beyond what partitions need, the peer ends the process
    for spec in engine.placed.values():
        spec.table_spec.stacked_table_spec = spec.table_spec.stacked_table_spec.replace(
            max_ids_per_partition=most, suggested_coo_buffer_size_per_device=suggested
        )
    mine = kernels.compute_coo_buffer_size_per_device(
        engine.placed, devices, per_device, minibatching
    )
    theirs = wheel.compute_coo_buffer_size_per_device(
        jax.tree.leaves(peer.placed_like(engine.placed)), devices, per_device, minibatching
    )
    assert mine == theirs


@pytest.mark.parametrize("minibatching", [False, True])
@pytest.mark.parametrize("leading", [False, True])
def test_shapes_are_those_of_the_arrays(minibatching, leading):
    specs = several_features(16)
    engine = Engine(specs, 4, 2)
    options = {"has_leading_dimension": leading, "enable_minibatching": minibatching}
    shapes = kernels.eval_preprocess_sparse_dense_matmul_input_shape(
        engine.placed, 4, 4, num_sc_per_device=2, **options
    )
    theirs = peer.embedding.eval_preprocess_sparse_dense_matmul_input_shape(
        peer.placed_like(engine.placed), 4, 4, num_sc_per_device=2, **options
    )
    assert [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(shapes)] == [
        (leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(theirs)
    ]
    batch, _ = engine.encode(random_ids(specs, 0), **options)
    assert jax.tree.structure(batch) == jax.tree.structure(shapes)
    for shape, array in zip(jax.tree.leaves(shapes), jax.tree.leaves(batch), strict=True):
        assert shape.dtype == array.dtype
        assert np.prod(shape.shape) == array.size
        if not leading:
            assert shape.shape == array.shape
