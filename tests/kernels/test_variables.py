from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

import kernels
from kernels.layout import from_shards, place_rows, to_shards
from tests.kernels import peer
from tests.kernels.support import AXIS, Engine, feature, mesh_of, several_features, table


def test_first_values_do_not_depend_on_mesh_or_stacking():
    specs = several_features(32)
    want = None
    for devices, per_device, stack in ((1, 1, True), (4, 1, False), (2, 4, True)):
        engine = Engine(specs, devices, per_device, stack)
        got = kernels.unstack_variables(engine.plan, engine.initialize(seed=5))
        want = want or got
        for mine, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            np.testing.assert_array_equal(mine, other)


def test_a_row_depends_on_seed_name_and_number_alone():
    def tables(seed, **vocabularies):
        specs = {n: feature(n, table(n, size), 8) for n, size in vocabularies.items()}
        engine = Engine(specs, 2)
        return kernels.unstack_tables(engine.plan, engine.initialize(seed))

    both, alone, reseeded = tables(0, t=4000, u=20), tables(0, t=20), tables(1, t=20)
    np.testing.assert_array_equal(both["t"][:20], alone["t"])
    assert not np.any(alone["t"] == reseeded["t"])
    assert not np.any(both["t"][:20] == both["u"])
    assert len(np.unique(both["t"][:20])) == both["t"][:20].size
    assert both["t"].std() == pytest.approx(0.1, rel=0.05)


def test_padding_is_zero_in_tables_and_initial_in_slots():
    specs = several_features(32, optimizer=kernels.AdagradOptimizerSpec(0.1, 0.7))
    engine = Engine(specs, 2, 2)
    for variables in engine.initialize().values():
        assert not np.any(variables.table[:, 12:])
        vocabulary = sum(t.vocabulary_size for t in engine.plan.tables)
        assert np.count_nonzero(np.any(np.asarray(variables.table) != 0, axis=1)) == vocabulary
        assert np.all(variables.slot.accumulator == np.float32(0.7))


def test_each_device_holds_its_own_rows():
    engine = Engine(several_features(32), 4)
    tables = engine.initialize()
    for stack in engine.plan.stacks:
        for array in jax.tree.leaves(tables[stack.name]):
            assert array.shape[0] == stack.vocab_size
            assert {s.data.shape[0] for s in array.addressable_shards} == {stack.vocab_size // 4}
    with pytest.raises(kernels.SpecError, match="the plan is for 4 devices, the mesh has 2"):
        kernels.initialize_tables(engine.plan, engine.specs, mesh_of(2), 0)


def test_row_wise_accumulators_are_one_column_wide():
    engine = Engine(several_features(32, optimizer=kernels.RowWiseAdagradOptimizerSpec(0.1)), 2)
    tables = engine.initialize()
    assert all(v.slot.accumulator.shape[1] == 1 for v in tables.values())
    logical = kernels.unstack_variables(engine.plan, tables)
    assert logical["items"].slot.accumulator.shape == (131, 1)


def test_unstacking_and_stacking_are_inverse():
    engine = Engine(several_features(32), 2, 2)
    tables = engine.tables()
    logical = kernels.unstack_variables(engine.plan, tables)
    again = kernels.stack_tables_into(engine.plan, tables, logical)
    blank = jax.tree.map(lambda array: np.zeros_like(array), again)
    rebuilt = kernels.stack_tables_into(engine.plan, blank, logical)
    for name in tables:
        for mine, other in zip(
            jax.tree.leaves(again[name]), jax.tree.leaves(tables[name]), strict=True
        ):
            np.testing.assert_array_equal(mine, other)
        np.testing.assert_array_equal(rebuilt[name].table, tables[name].table)


@given(
    vocabulary=st.integers(1, 50),
    dim=st.integers(1, 9),
    sparsecores=st.sampled_from([1, 2, 3, 8]),
    rotation=st.integers(0, 7),
    offset=st.integers(0, 5),
)
@settings(max_examples=40, deadline=None)
def test_shards_hold_every_row_once(vocabulary, dim, sparsecores, rotation, offset):
    rows = offset + -(-vocabulary // sparsecores)
    stacked = np.zeros((rows * sparsecores, dim + 2))
    values = np.random.default_rng(0).normal(size=(vocabulary, dim))
    where = {"rotation": rotation, "row_offset": offset}
    to_shards(stacked, values, sparsecores, **where)
    np.testing.assert_array_equal(
        from_shards(stacked, sparsecores, vocabulary, dim, **where), values
    )
    assert np.count_nonzero(stacked) == values.size
    core, local = place_rows(np.arange(vocabulary), sparsecores, **where)
    assert len(set(zip(core.tolist(), local.tolist(), strict=True))) == vocabulary


def test_layout_is_the_peers():
    specs = several_features(32)
    engine = Engine(specs, 2, 2)
    theirs = peer.placed_like(engine.placed)
    tables = kernels.unstack_tables(engine.plan, engine.tables())
    by_name = {spec.table_spec.name: spec.table_spec for spec in theirs.values()}
    stacked = peer.table_stacking.stack_and_shard_tables(by_name, tables, 4, 0.0)
    for name, variables in engine.tables().items():
        np.testing.assert_array_equal(stacked[name].reshape(variables.table.shape), variables.table)


def test_values_made_shard_by_shard_are_the_peers():
    specs = several_features(32)
    devices = 2
    kernels.auto_stack_tables(specs, devices, 2)
    theirs = peer.placed_like(specs)
    sharding = NamedSharding(mesh_of(devices), PartitionSpec(AXIS, None))
    key = jax.random.key(7)
    mine = kernels.init_embedding_variables(
        key, kernels.get_table_specs(specs), sharding, 2, bypass_mesh_check=True
    )
    other = peer.embedding.init_embedding_variables(
        key, peer.embedding.get_table_specs(theirs), sharding, 2, bypass_mesh_check=True
    )
    assert mine.keys() == other.keys()
    for name in mine:
        for a, b in zip(jax.tree.leaves(mine[name]), jax.tree.leaves(other[name]), strict=True):
            np.testing.assert_array_equal(a, b)
    leading = NamedSharding(mesh_of(devices), PartitionSpec(AXIS, None, None))
    led = kernels.init_embedding_variables(
        key, kernels.get_table_specs(specs), leading, 2, bypass_mesh_check=True
    )
    for name in mine:
        shape = led[name].table.shape
        assert shape[0] == devices
        np.testing.assert_array_equal(
            led[name].table.reshape(mine[name].table.shape), mine[name].table
        )


def test_shardings_that_cannot_be_meant_are_refused():
    tables = kernels.get_table_specs(several_features(32))
    mesh = mesh_of(2)
    with pytest.raises(kernels.SpecError, match=r"PartitionSpec\('shards', None\)"):
        kernels.init_embedding_variables(
            jax.random.key(0), tables, NamedSharding(mesh, PartitionSpec(None, AXIS)), 1
        )
    with pytest.raises(kernels.SpecError, match="bypass_mesh_check"):
        kernels.init_embedding_variables(
            jax.random.key(0), tables, NamedSharding(mesh, PartitionSpec(AXIS, None)), 1
        )


@pytest.mark.parametrize(
    "parts",
    [
        (None,),
        (None, "x"),
        (None, "x", None),
        (None, None, "x"),
        ("x", None, None, None),
        (None, "x", None, None),
    ],
)
def test_malformed_shardings_are_refused_in_the_words_of_there(parts):
    mesh = jax.make_mesh((len(jax.devices()),), ("x",))
    tables = kernels.get_table_specs(several_features(32))
    with pytest.raises(
        ValueError, match="PartitionSpec of the global sharding either needs to be in the format"
    ):
        kernels.init_embedding_variables(
            jax.random.key(0), tables, NamedSharding(mesh, PartitionSpec(*parts)), 1
        )


def test_devices_in_another_order_must_be_meant():
    devices = jax.devices()
    devices.append(devices.pop(len(devices) // 2))
    sharding = NamedSharding(jax.sharding.Mesh(devices, "x"), PartitionSpec("x", None))
    specs = {"f": feature("f", table("t", 20), 64)}
    kernels.prepare_feature_specs_for_training(specs, len(devices), 1)
    make = functools.partial(
        kernels.init_embedding_variables,
        jax.random.key(0),
        kernels.get_table_specs(specs),
        sharding,
        1,
    )
    with pytest.raises(
        ValueError,
        match="global_sharding needs to be created with default device order from",
    ):
        make()
    made = make(bypass_mesh_check=True)["t"].table
    assert [shard.device for shard in made.addressable_shards] == devices


@pytest.mark.parametrize(
    ("shape", "names", "axis"),
    [((2, 4), ("x", "y"), ("x", "y")), ((1, 1, 8, 1), ("a", "b", "c", "d"), "c")],
)
def test_meshes_of_several_axes_hold_whole_stacks(shape, names, axis):
    mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(shape), names)
    specs = {n: feature(n, table(n, size, 14), 64) for n, size in (("a", 32), ("b", 77))}
    kernels.auto_stack_tables(specs, 8, 2)
    (made,) = kernels.init_embedding_variables(
        jax.random.key(0),
        kernels.get_table_specs(specs),
        NamedSharding(mesh, PartitionSpec(axis, None)),
        2,
    ).values()
    stack = specs["a"].table_spec.stacked_table_spec
    assert made.table.shape == (stack.stack_vocab_size, stack.stack_embedding_dim) == (256, 16)
    assert {shard.data.shape for shard in made.table.addressable_shards} == {(32, 16)}


def test_tables_that_were_not_prepared_keep_their_size():
    made = kernels.init_embedding_variables(
        jax.random.key(0),
        [table("a", 32, 16), table("b", 64, 16)],
        NamedSharding(jax.make_mesh((8,), ("x",)), PartitionSpec("x", None)),
        2,
    )
    assert {name: v.table.shape for name, v in made.items()} == {"a": (32, 16), "b": (64, 16)}
    assert made["a"].slot.accumulator.shape == (32, 16)
