"""Whole tables into stacks and back, as jax-tpu-embedding does it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

import kernels
from kernels import table_stacking
from kernels.layout import from_shards
from tests.kernels import peer
from tests.kernels.support import AXIS, feature, mesh_of, table


def features_of(*tables: kernels.TableSpec, samples: int = 64) -> dict[str, kernels.FeatureSpec]:
    return {t.name: feature(t.name, t, samples) for t in tables}


def numbered(specs: dict[str, kernels.FeatureSpec]) -> dict[str, np.ndarray]:
    """By table, an array that tells every entry from all others."""
    result = {}
    for number, spec in enumerate(specs.values()):
        shape = (spec.table_spec.vocabulary_size, spec.table_spec.embedding_dim)
        entries = np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)
        result[spec.table_spec.name] = entries + 100_000 * number
    return result


def proto_of(theirs, devices: int, per_device: int):
    return peer.embedding.create_proto_from_feature_specs(theirs, devices, per_device)


@st.composite
def placed(draw):
    tables = [
        table(f"t{n}", draw(st.integers(1, 150)), draw(st.integers(1, 20)))
        for n in range(draw(st.integers(1, 4)))
    ]
    devices, per_device = draw(st.integers(1, 3)), draw(st.sampled_from([2, 4]))
    rotation = draw(st.sampled_from([None, 0, 1, 3]))
    specs = features_of(*tables, samples=24 * per_device)
    theirs = peer.specs_like(specs)
    stack = draw(st.booleans())
    for where, stacking in ((specs, table_stacking), (theirs, peer.table_stacking)):
        if stack:
            stacking.auto_stack_tables(where, devices, per_device, rotation)
    kernels.prepare_feature_specs_for_training(specs, devices, per_device)
    peer.embedding.prepare_feature_specs_for_training(theirs, devices, per_device)
    return specs, theirs, devices, per_device


@given(placed(), st.sampled_from([0.0, -1.0, np.nan]))
@settings(max_examples=12, deadline=None)
def test_stacks_by_specs_are_the_same_and_come_apart_again(case, pad_value):
    specs, theirs, devices, per_device = case
    shards = devices * per_device
    values = numbered(specs)
    mine = table_stacking.stack_and_shard_tables(
        {n: s.table_spec for n, s in specs.items()}, values, shards, pad_value
    )
    want = peer.table_stacking.stack_and_shard_tables(
        {n: s.table_spec for n, s in theirs.items()}, values, shards, pad_value
    )
    assert mine.keys() == want.keys()
    for name, stack in mine.items():
        np.testing.assert_array_equal(stack, want[name])
    back = table_stacking.unshard_and_unstack_tables(
        {n: s.table_spec for n, s in specs.items()}, mine, shards
    )
    for name, value in values.items():
        np.testing.assert_array_equal(back[name], value)


@given(placed(), st.data())
@settings(max_examples=12, deadline=None)
def test_descriptions_and_row_ids_are_the_same(case, data):
    specs, theirs, devices, per_device = case
    proto = proto_of(theirs, devices, per_device)
    mine = table_stacking.describe_stacks(specs, devices, per_device)
    for stack, other in zip(mine.stacked_table_specs, proto.stacked_table_specs, strict=True):
        assert {k: v for k, v in vars(stack).items() if k != "table_specs"} == {
            k: getattr(other, k) for k in vars(stack) if k != "table_specs"
        }
        for one, two in zip(stack.table_specs, other.table_specs, strict=True):
            assert vars(one) == {k: getattr(two, k) for k in vars(one)}
    asked = {
        spec.name: data.draw(
            st.lists(st.integers(0, spec.table_spec.vocabulary_size - 1), max_size=4)
        )
        for spec in specs.values()
    }
    want = dict(peer.table_stacking.get_row_ids_in_stacked_tables(proto, asked))
    assert table_stacking.get_row_ids_in_stacked_tables(mine, asked) == want
    assert table_stacking.get_row_ids_in_stacked_tables(proto, asked) == want


@pytest.mark.parametrize("donate", [True, False])
def test_arrays_stay_on_their_devices(donate):
    devices, per_device = 4, 4
    specs = features_of(table("a", 64, 14), table("b", 200, 14), table("c", 120, 30))
    plan = kernels.build_plan(specs, kernels.Topology(1, devices, per_device), batch_size=64)
    theirs = peer.specs_like(specs)
    peer.embedding.auto_stack_tables(theirs, devices, per_device)
    proto = proto_of(theirs, devices, per_device)
    place = NamedSharding(mesh_of(devices), PartitionSpec(AXIS))
    values = numbered(specs)

    def put():
        return {name: jax.device_put(value, place) for name, value in values.items()}

    given_tables = put()
    want = peer.table_stacking.stack_and_shard_feature_tables(put(), proto)
    for description in (plan, proto, table_stacking.describe_plan(plan)):
        given_tables = put()
        mine = table_stacking.stack_and_shard_feature_tables(
            given_tables, description, delete_input=donate
        )
        assert mine.keys() == want.keys()
        for name, stack in mine.items():
            np.testing.assert_array_equal(stack, want[name])
            assert stack.sharding.is_equivalent_to(place, 2)
        assert {array.is_deleted() for array in given_tables.values()} == {donate}

    back = table_stacking.unstack_and_unshard_stacked_tables(mine, plan, donate=donate)
    for name, value in values.items():
        np.testing.assert_array_equal(back[name], value)
        assert back[name].sharding.is_equivalent_to(place, 2)
    assert {stack.is_deleted() for stack in mine.values()} == {donate}


def test_tables_that_do_not_divide_come_out_whole():
    specs = features_of(table("a", 77, 5))
    plan = kernels.build_plan(specs, kernels.Topology(1, 4, 2), batch_size=64)
    stack = jnp.arange(plan.stacks[0].vocab_size * 8, dtype=jnp.float32).reshape(-1, 8)
    placed_stack = jax.device_put(stack, NamedSharding(mesh_of(4), PartitionSpec(AXIS)))
    (got,) = table_stacking.unstack_and_unshard_stacked_tables({"a": placed_stack}, plan).values()
    np.testing.assert_array_equal(got, from_shards(np.asarray(stack), 8, 77, 5))
    assert got.sharding.is_fully_replicated


def test_trees_of_arrays_and_tables_that_are_in_no_stack():
    spec = table("t", 20, 12, optimizer=kernels.RowWiseAdagradOptimizerSpec(0.1))
    rows = np.arange(240, dtype=np.float32).reshape(20, 12)
    variables = kernels.EmbeddingVariables(rows, (np.ones((20, 1), np.float32),))
    stacks = table_stacking.stack_and_shard_tables([spec], [variables], 2, 7.0)
    assert stacks["t"].table.shape == (2, 16, 16)
    assert stacks["t"].slot[0].shape == (2, 16, 1)
    assert float(stacks["t"].table.max()) == 239 and float(stacks["t"].table[0, -1, -1]) == 7
    (back,) = table_stacking.unshard_and_unstack_tables([spec], stacks, 2)
    np.testing.assert_array_equal(back.table, rows)
    np.testing.assert_array_equal(back.slot[0], 1)


def test_physical_rows_are_where_the_layout_puts_them():
    rows = np.arange(50)
    physical = table_stacking.compute_physical_row_ids(4, 128, 3, 16, rows)
    stack = np.arange(128, dtype=np.float32)[:, None]
    np.testing.assert_array_equal(
        stack[physical], from_shards(stack, 4, 50, 1, rotation=3, row_offset=16)
    )
    assert table_stacking.compute_physical_row_ids(4, 128, 3, 16, 7) == physical[7]
    np.testing.assert_array_equal(
        table_stacking.compute_physical_row_ids(4, 128, 3, 16, jnp.asarray(rows)), physical
    )


def test_what_does_not_fit_is_refused():
    specs = features_of(table("a", 64, 8), table("b", 64, 8))
    plan = kernels.build_plan(specs, kernels.Topology(1, 2, 2), batch_size=64)
    rows = jnp.zeros((64, 8))
    stacked = f"Stacked table '{plan.stacks[0].name}' not found"
    with pytest.raises(kernels.SpecError, match=stacked):
        table_stacking.unstack_and_unshard_stacked_tables({}, plan)
    with pytest.raises(kernels.SpecError, match="'b' not found in `feature_tables`"):
        table_stacking.stack_and_shard_feature_tables({"a": rows}, plan)
    with pytest.raises(kernels.SpecError, match="must have the same sharding"):
        elsewhere = jax.device_put(rows, jax.devices()[1])
        table_stacking.stack_and_shard_feature_tables({"a": rows, "b": elsewhere}, plan)
    with pytest.raises(kernels.SpecError, match=r"shape \(63, 8\), but has 64 rows"):
        table_stacking.stack_and_shard_feature_tables({"a": rows[1:], "b": rows[1:]}, plan)
    with pytest.raises(kernels.SpecError, match="not in stacked_tables"):
        table_stacking.unshard_and_unstack_tables([specs["a"].table_spec], {}, 4)
    with pytest.raises(kernels.SpecError, match=r"64 exceeds available vocabulary size \[64\]"):
        table_stacking.get_row_ids_in_stacked_tables(plan, {"a": [64]})
    with pytest.raises(kernels.SpecError, match="no row -1"):
        table_stacking.get_row_ids_in_stacked_tables(plan, {"a": [-1]})


@pytest.mark.parametrize("limit", [10, 25, 30, 35, 60, 100])
def test_groups_are_cut_as_there(limit):
    groups = [["a", "b", "c"], ["d", "e"], ["f"]]
    sizes = {"a": 10, "b": 20, "c": 30, "d": 5, "e": 25, "f": 60}
    assert table_stacking._split_groups_by_memory_limit(
        groups, sizes, limit
    ) == peer.table_stacking._split_groups_by_memory_limit(groups, sizes, limit)
