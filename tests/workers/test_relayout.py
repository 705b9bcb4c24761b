"""A checkpoint restored under another layout: every row of tables and slots, for many pairs."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental.layout import Format, Layout
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kernels import (
    AdagradOptimizerSpec,
    EmbeddingPlan,
    EmbeddingVariables,
    FeatureSpec,
    RowWiseAdagradOptimizerSpec,
    TableSpec,
    Topology,
    build_plan,
    initialize_tables,
    stack_tables_into,
    unstack_variables,
)
from workers import relayout
from workers.checkpoint import About, Checkpoints
from workers.checksums import CHECKSUMS
from workers.errors import CheckpointError, PlanMismatch
from workers.training import TrainState

BATCH = 288
"""Divided by every number of SparseCores used here."""


def features(vocabularies: tuple[int, ...], row_wise: bool = False) -> list[FeatureSpec]:
    kind = RowWiseAdagradOptimizerSpec if row_wise else AdagradOptimizerSpec
    return [
        FeatureSpec(
            name=f"feature-{number}",
            table_spec=TableSpec(
                name=f"table-{number}",
                vocabulary_size=rows,
                embedding_dim=5 if row_wise else 5 + 2 * (number % 2),
                initializer=jax.nn.initializers.normal(1.0),
                optimizer=kind(learning_rate=0.1, initial_accumulator_value=0.25),
                combiner="sum",
            ),
            input_shape=(BATCH, 1),
            output_shape=(BATCH, 5),
        )
        for number, rows in enumerate(vocabularies)
    ]


def plan_of(
    specs: list[FeatureSpec], devices: int, sparsecores: int, stacked: bool
) -> EmbeddingPlan:
    return build_plan(specs, Topology(1, devices, sparsecores), batch_size=BATCH, stack=stacked)


topologies = st.tuples(st.sampled_from([1, 2, 3, 4, 8]), st.sampled_from([1, 2, 3, 4]))


@given(
    old=topologies,
    new=topologies,
    stacked=st.tuples(st.booleans(), st.booleans()),
    vocabularies=st.lists(st.integers(1, 300), min_size=1, max_size=3),
)
@settings(max_examples=60, deadline=None)
def test_moves_name_every_row_once_and_in_its_place(
    old: tuple[int, int],
    new: tuple[int, int],
    stacked: tuple[bool, bool],
    vocabularies: list[int],
) -> None:
    specs = features(tuple(vocabularies))
    before, after = plan_of(specs, *old, stacked[0]), plan_of(specs, *new, stacked[1])
    logical = {
        table.name: EmbeddingVariables(np.arange(1.0, table.vocabulary_size + 1)[:, None], ())
        for table in before.tables
    }

    def stacks(plan: EmbeddingPlan) -> dict[str, np.ndarray]:
        empty = {
            stack.name: EmbeddingVariables(np.zeros((stack.vocab_size, 1)), ())
            for stack in plan.stacks
        }
        return {name: v.table for name, v in stack_tables_into(plan, empty, logical).items()}

    def stack_of(plan: EmbeddingPlan, table: str) -> str:
        return next(s.name for s in plan.stacks for p in s.tables if p.table == table)

    source, expected = stacks(before), stacks(after)
    made = {name: np.zeros_like(array) for name, array in expected.items()}
    for table in after.tables:
        into, taken = made[stack_of(after, table.name)], 0
        for move in relayout.moves(before, after, table.name, range(after.topology.sparsecores)):
            assert len(move.source) == len(move.target) > 0
            assert not into[list(move.target)].any(), "a row was named twice"
            into[list(move.target)] = source[stack_of(before, table.name)][list(move.source)]
            taken += len(move.source)
        assert taken == table.vocabulary_size
    for name, array in expected.items():
        np.testing.assert_array_equal(made[name], array)


def mesh_of(devices: int) -> Mesh:
    return Mesh(np.array(jax.devices()[:devices]), ("device",))


def state_of(plan: EmbeddingPlan, specs: list[FeatureSpec], seed: int) -> TrainState:
    mesh = mesh_of(plan.topology.devices)
    everywhere = NamedSharding(mesh, PartitionSpec())
    dense = jax.device_put({"weight": jnp.arange(6.0) + seed}, everywhere)
    step = jax.device_put(jnp.int32(seed), everywhere)
    # Values as training leaves them, in slots and padding too: each row another.
    shapes = jax.eval_shape(lambda: initialize_tables(plan, specs, mesh, seed))
    generator, rows = np.random.default_rng(seed), NamedSharding(mesh, PartitionSpec("device"))
    tables = jax.tree.map(
        lambda leaf: jax.device_put(generator.random(leaf.shape, np.float32) + seed, rows), shapes
    )
    return TrainState(step, tables, dense, dense)


def like(state: TrainState) -> TrainState:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state
    )


@pytest.mark.parametrize(
    ("old", "new", "row_wise"),
    [
        ((4, 1, True), (2, 1, True), False),
        ((2, 2, True), (8, 1, True), False),
        ((1, 1, False), (3, 4, True), False),
        ((3, 2, True), (2, 4, False), True),
        ((8, 1, True), (8, 1, False), True),
    ],
)
def test_a_restore_under_another_plan(
    old: tuple[int, int, bool],
    new: tuple[int, int, bool],
    row_wise: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Blocks and stored pieces smaller than a shard, so that shards are read in several parts.
    monkeypatch.setattr(relayout, "BLOCK_BYTES", 7 * 5 * 4)
    monkeypatch.setattr("workers.checkpoint.CHUNK_BYTES", 512)
    specs = features((301, 50, 7), row_wise)
    before, after = plan_of(specs, *old), plan_of(specs, *new)
    state = state_of(before, specs, 3)
    with_old = Checkpoints(tmp_path, About(before, "p"))
    with_old.save(3, state)
    with_old.close()

    with_new = Checkpoints(tmp_path, About(after, "p"))
    fresh = state_of(after, specs, 4)
    restored = with_new.restore(3, like(fresh), lambda: fresh)
    with_new.close()
    assert int(restored.step) == 3
    np.testing.assert_array_equal(restored.parameters["weight"], state.parameters["weight"])
    expected = unstack_variables(before, state.tables)
    found = unstack_variables(after, restored.tables)
    assert found.keys() == expected.keys()
    for name in expected:
        jax.tree.map(np.testing.assert_array_equal, found[name], expected[name])
    # All that is no row of a table is as in the state a run begins with: seed 4, not 3.
    padding = stack_tables_into(after, restored.tables, unstack_variables(after, fresh.tables))
    jax.tree.map(np.testing.assert_array_equal, padding, jax.device_get(fresh.tables))
    for name, variables in restored.tables.items():
        assert variables.table.sharding == fresh.tables[name].table.sharding


@pytest.mark.parametrize("stacked", [True, False], ids=["same plan", "other plan"])
def test_restored_tables_have_the_layout_that_is_wanted(stacked: bool, tmp_path: Path) -> None:
    """As on TPUs, where the train step refuses tables in any layout but its own."""
    specs = features((40, 20))
    before, after = plan_of(specs, 2, 1, True), plan_of(specs, 2, 1, stacked)
    saved = Checkpoints(tmp_path, About(before, "p"))
    saved.save(1, state_of(before, specs, 1))
    saved.close()
    begin = state_of(after, specs, 2)
    rows = jax.tree.leaves(begin.tables)[0].sharding
    by_columns = Format(Layout(major_to_minor=(1, 0)), rows)
    turned = jax.jit(lambda tables: tables, out_shardings=by_columns)(begin.tables)
    wanted = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=by_columns), turned
    )
    other = Checkpoints(tmp_path, About(after, "p"))
    restored = other.restore(
        1, like(begin)._replace(tables=wanted), lambda: begin._replace(tables=turned)
    )
    other.close()
    step = jax.jit(lambda tables: tables, in_shardings=by_columns)
    jax.block_until_ready(step(restored.tables))


def test_what_a_run_begins_with_makes_room_array_by_array(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = features((40, 20))
    before, after = plan_of(specs, 2, 1, True), plan_of(specs, 2, 1, False)
    saved = Checkpoints(tmp_path, About(before, "p"))
    saved.save(1, state_of(before, specs, 1))
    saved.close()
    begin = dict(state_of(after, specs, 2).tables)
    there = [weakref.ref(array) for array in jax.tree.leaves(begin)]
    left = []
    carry_out = relayout._carry_out

    def counted(*arguments: Any) -> None:
        left.append(sum(array() is not None for array in there))
        carry_out(*arguments)

    monkeypatch.setattr(relayout, "_carry_out", counted)
    relayout.read_tables(tmp_path / "1" / "tables", before, after, begin)
    assert left == [3, 2, 1, 0]
    assert not begin


def test_other_tables_are_refused(tmp_path: Path) -> None:
    specs = features((40, 20))
    before = plan_of(specs, 2, 1, True)
    saved = Checkpoints(tmp_path, About(before, "p"))
    saved.save(1, state_of(before, specs, 1))
    saved.close()
    larger = features((41, 20))
    after = plan_of(larger, 2, 1, True)
    fresh = state_of(after, larger, 1)
    other = Checkpoints(tmp_path, About(after, "p"))
    with pytest.raises(
        PlanMismatch, match=r"holds other tables: 'table-0' was .*=40.* is now .*=41"
    ):
        other.restore(1, like(fresh), lambda: fresh)
    other.close()


def test_damaged_arrays_are_an_error(tmp_path: Path) -> None:
    specs = features((4000,))
    before, after = plan_of(specs, 2, 1, True), plan_of(specs, 4, 1, True)
    saved = Checkpoints(tmp_path, About(before, "p"))
    saved.save(1, state_of(before, specs, 1))
    saved.close()
    largest = max((tmp_path / "1" / "tables").rglob("d/*"), key=lambda file: file.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    (tmp_path / "1" / CHECKSUMS).unlink()  # as of a checkpoint saved without
    fresh = state_of(after, specs, 1)
    other = Checkpoints(tmp_path, About(after, "p"))
    with pytest.raises(CheckpointError, match=r"checkpoint 1 in .* cannot be read"):
        other.restore(1, like(fresh), lambda: fresh)
    other.close()
