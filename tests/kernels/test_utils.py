"""The names of ``utils.utils`` mean what they mean in jax-tpu-embedding."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.experimental.layout import Format
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec
from jax_tpu_embedding.sparsecore.utils import utils as peer

import kernels
from kernels import embedding, utils
from kernels.layout import to_shards
from tests.kernels.peer import embedding as peer_embedding
from tests.kernels.support import AXIS, mesh_of


def device(kind: str, platform: str = "tpu") -> SimpleNamespace:
    return SimpleNamespace(device_kind=kind, platform=platform)


def test_sparsecores_of_tpus_are_known():
    assert utils.NUM_SC_PER_DEVICE_MAP == peer.NUM_SC_PER_DEVICE_MAP
    for kind, number in peer.NUM_SC_PER_DEVICE_MAP.items():
        assert utils.num_sparsecores_per_device(device(kind)) == number
        bare = SimpleNamespace(device_kind=kind)  # all that is asked of a device there
        assert utils.num_sparsecores_per_device(bare) == number


def test_unknown_tpus_and_things_that_are_no_device_are_refused():
    for unknown in (device("TPU v99"), SimpleNamespace(device_kind="toaster")):
        with pytest.raises(kernels.SpecError, match="Unknown sparsecore count for device kind"):
            utils.num_sparsecores_per_device(unknown)
    with pytest.raises(kernels.SpecError, match="Cannot determine device kind"):
        utils.num_sparsecores_per_device("a device")  # pyright: ignore[reportArgumentType]


def test_other_platforms_can_be_told_a_number(monkeypatch):
    assert utils.num_sparsecores_per_device() == 1
    assert utils.num_sparsecores_per_device(device("NVIDIA H100", "gpu")) == 1
    monkeypatch.setenv(utils.EMULATED_SPARSECORES, "4")
    assert utils.num_sparsecores_per_device() == 4
    assert utils.check_num_sparsecores(None) == 4
    assert utils.num_sparsecores_per_device(device("TPU7x")) == 2
    monkeypatch.setitem(utils.NUM_SC_PER_DEVICE_MAP, "cpu", 3)
    assert utils.num_sparsecores_per_device() == 3
    assert utils.check_num_sparsecores(5) == 5
    monkeypatch.delitem(utils.NUM_SC_PER_DEVICE_MAP, "cpu")
    for wrong in ("0", "many", "-1", ""):
        monkeypatch.setenv(utils.EMULATED_SPARSECORES, wrong)
        with pytest.raises(kernels.SpecError, match="unset it"):
            utils.num_sparsecores_per_device()
    with pytest.raises(kernels.SpecError, match="Invalid num_sc_per_device: 0"):
        utils.check_num_sparsecores(0)


@given(
    devices=st.integers(1, 4), per_device=st.integers(1, 4), rows=st.integers(1, 5),
    rest=st.sampled_from([(), (1,), (3,), (2, 2)]),
)  # fmt: skip
def test_tables_are_cut_and_joined_as_there(devices, per_device, rows, rest):
    vocabulary = rows * devices * per_device
    table = np.arange(vocabulary * int(np.prod(rest))).reshape(vocabulary, *rest)
    sizes = {"num_devices": devices, "num_sc_per_device": per_device}
    mine = utils.shard_emb_table(table, **sizes)
    np.testing.assert_array_equal(mine, peer.shard_emb_table(table, **sizes))
    np.testing.assert_array_equal(utils.unshard_emb_table(mine, per_device), table)
    if len(rest) == 1:  # the same rows as in a stack of this one table
        stack = np.zeros_like(table)
        to_shards(stack, table, devices * per_device)
        np.testing.assert_array_equal(mine.reshape(table.shape), stack)


def test_cutting_works_on_jax_arrays_and_refuses_what_does_not_divide():
    table = jnp.arange(16.0).reshape(8, 2)
    cut = utils.shard_emb_table(table, num_devices=2, num_sc_per_device=2)
    assert isinstance(cut, jax.Array)
    assert cut[0, :, 0].tolist() == [0, 8, 2, 10]
    with pytest.raises(kernels.SpecError, match="multiple of 3 rows"):
        utils.shard_emb_table(table, num_devices=3, num_sc_per_device=1)
    with pytest.raises(kernels.SpecError, match="cannot lie on 3"):
        utils.unshard_emb_table(cut, 3)
    with pytest.raises(kernels.SpecError, match="use 'MOD'"):
        utils.unshard_emb_table(cut, 2, sharding_strategy="DIV")


def test_tables_have_the_sparsecores_layout_on_tpus_alone():
    spec = PartitionSpec(AXIS, None)
    here = NamedSharding(mesh_of(2), spec)
    assert utils.embedding_table_format(here.mesh, spec) == here
    assert utils.embedding_table_format_with_sharding(here) == here
    for kind in ("TPU v5p", None):
        kinds = None if kind is None else jax.sharding.AbstractDevice(kind, 2, "tpu")
        abstract = AbstractMesh((2,), (AXIS,), abstract_device=kinds)
        mine = utils.embedding_table_format(abstract, spec)
        assert isinstance(mine, Format)
        assert mine == peer.embedding_table_format(abstract, spec)
        assert mine.layout.tiling == ((8,),)


@given(
    global_batch_size=st.integers(1, 1 << 20), global_device_count=st.integers(1, 512),
    num_sc_per_device=st.sampled_from([1, 2, 4]), valency=st.floats(0.1, 500),
    hot_shard_fraction=st.floats(0, 1), headroom_factor=st.floats(1, 3),
)  # fmt: skip
def test_first_limits_are_estimated_as_there(**given_values):
    mine = utils.estimate_preprocessing_parameters(**given_values)
    assert mine == peer.estimate_preprocessing_parameters(**given_values)


def test_estimates_of_nothing_are_refused():
    good = {"global_batch_size": 512, "global_device_count": 1, "num_sc_per_device": 4}
    for name in (*good, "valency"):
        with pytest.raises(kernels.SpecError, match=f"{name} is 0"):
            utils.estimate_preprocessing_parameters(**(good | {"valency": 1.0, name: 0}))


def test_strategies_have_the_numbers_of_there():
    for name in ("MOD", "mod"):
        mine = embedding.sharding_strategy_to_enum(name)
        assert mine.value == int(peer_embedding.sharding_strategy_to_enum(name).value)
    with pytest.raises(kernels.SpecError, match="Unsupported sharding strategy: DIV"):
        embedding.sharding_strategy_to_enum("DIV")
