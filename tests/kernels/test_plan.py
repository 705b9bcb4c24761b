from __future__ import annotations

import dataclasses
import json
import pickle
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from kernels.planning import MemoryEstimate
from tests.kernels.support import Engine, feature, random_ids, several_features, table

ROOT = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Seen:
    max_ids_per_partition: int
    max_unique_ids_per_partition: int
    required_buffer_size_per_device: int


def plan_of(specs=None, devices=2, per_device=2, **options):
    return kernels.build_plan(
        specs or several_features(32),
        kernels.Topology(1, devices, per_device),
        batch_size=32,
        **options,
    )


def test_json_round_trip():
    plan = plan_of(version=3)
    again = kernels.EmbeddingPlan.from_json(plan.to_json())
    assert again == plan
    assert hash(again) == hash(plan)
    assert again.hash == plan.hash
    assert pickle.loads(pickle.dumps(plan)) == plan
    assert (
        " "
        not in plan.to_json().replace(json.loads(plan.to_json())["tables"][0]["optimizer"], "")[:40]
    )


def test_hash_covers_all_that_shapes_the_computation():
    base = plan_of()
    assert base.hash == plan_of().hash
    assert base.hash == plan_of(version=9).hash
    specs = several_features(32)
    other = several_features(32, combiner="mean")
    rate = several_features(32, optimizer=kernels.AdagradOptimizerSpec(0.2))
    different = [
        plan_of(devices=4),
        plan_of(per_device=1),
        plan_of(other),
        plan_of(rate),
        plan_of(stack=False),
        base.with_limits({base.stacks[0].name: kernels.Limits(8, 8, 64)}),
        kernels.build_plan(specs, kernels.Topology(2, 1, 2), batch_size=32),
        kernels.build_plan(specs, kernels.Topology(1, 2, 2), batch_size=16),
    ]
    assert len({plan.hash for plan in (base, *different)}) == len(different) + 1


def test_hash_is_the_same_in_another_process_and_starts_no_backend():
    code = (
        "import jax\n"
        "from tests.kernels.support import several_features\n"
        "import kernels\n"
        "topology = kernels.Topology(1, 2, 2)\n"
        "plan = kernels.build_plan(several_features(32), topology, batch_size=32)\n"
        "kernels.apply_plan(plan, several_features(32))\n"
        "plan.with_raised_limits({})\n"
        "import jax._src.xla_bridge as bridge\n"
        "print(plan.hash, bool(bridge._backends))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [plan_of().hash, "False"]


def test_building_changes_nothing_and_applying_gives_fresh_specs():
    specs = several_features(32)
    plan = plan_of(specs)
    placed = kernels.apply_plan(plan, specs)
    assert not any(spec.table_spec.is_stacked() for spec in specs.values())
    assert all(spec.table_spec.is_stacked() for spec in placed.values())
    assert placed["clicked"].table_spec is placed["shown"].table_spec
    # From placed specs the same plan is made.
    assert plan_of(placed) == plan


@pytest.mark.parametrize("stack", [True, False])
def test_applying_gives_what_stacking_in_place_gives(stack):
    specs = several_features(32)
    placed = kernels.apply_plan(plan_of(specs, stack=stack), specs)
    if stack:
        kernels.auto_stack_tables(specs, 2, 2)
    kernels.prepare_feature_specs_for_training(specs, 2, 2)
    for name, spec in specs.items():
        mine = placed[name]
        assert mine.id_transformation == spec.id_transformation
        assert mine.table_spec.setting_in_stack == spec.table_spec.setting_in_stack
        limits = {
            "max_ids_per_partition": 1,
            "max_unique_ids_per_partition": 1,
            "suggested_coo_buffer_size_per_device": 1,
        }
        assert mine.table_spec.stacked_table_spec.replace(
            **limits
        ) == spec.table_spec.stacked_table_spec.replace(**limits)


def test_specs_of_another_plan_are_refused():
    plan = plan_of()
    fewer = several_features(32)
    del fewer["day"]
    with pytest.raises(kernels.SpecError, match="'day' that the specs lack"):
        kernels.apply_plan(plan, fewer)
    with pytest.raises(kernels.SpecError, match="combiner 'mean', but the plan has 'sum'"):
        kernels.apply_plan(plan, several_features(32, combiner="mean"))
    with pytest.raises(kernels.SpecError, match="samples 64, but the plan has 32"):
        kernels.apply_plan(plan, several_features(64))
    with pytest.raises(kernels.SpecError, match="is not an embedding plan"):
        kernels.EmbeddingPlan.from_json('{"format": 0}')
    with pytest.raises(kernels.SpecError, match="is not an embedding plan"):
        kernels.EmbeddingPlan.from_json("[]")


def test_plans_that_cannot_work_are_refused():
    with pytest.raises(kernels.SpecError, match="multiple of 5"):
        plan_of(devices=5, per_device=1)
    with pytest.raises(kernels.SpecError, match="no features"):
        kernels.build_plan({}, kernels.Topology(1, 1), batch_size=8)
    with pytest.raises(kernels.SpecError, match="no multiple of the batch size"):
        kernels.build_plan(several_features(32), kernels.Topology(1, 1), batch_size=24)
    with pytest.raises(kernels.SpecError, match="'nowhere'"):
        plan_of(limits={"nowhere": kernels.Limits(8, 8, 8)})
    twice = [feature("a", table("t", 8), 8), feature("b", table("t", 9), 8)]
    with pytest.raises(kernels.SpecError, match="defined twice"):
        kernels.build_plan(twice, kernels.Topology(1, 1), batch_size=8)
    with pytest.raises(kernels.SpecError, match="hosts is 0"):
        kernels.Topology(0, 1)


@given(
    seed=st.integers(0, 2**32 - 1),
    devices=st.sampled_from([1, 2, 3, 4]),
    per_device=st.sampled_from([1, 2]),
    hot=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_no_batch_exceeds_the_theoretical_limits(seed, devices, per_device, hot):
    specs = several_features(24)
    engine = Engine(specs, devices, per_device)
    ids = random_ids(specs, seed, padding=False)
    if hot:  # all ids on one SparseCore
        step = engine.plan.topology.sparsecores
        ids = {name: value // step * step for name, value in ids.items()}
    _, stats = engine.encode(ids)
    for stack in engine.plan.stacks:
        assert stats.max_ids_per_partition[stack.name].max() <= stack.maximum.max_ids_per_partition


def test_ragged_features_have_theoretical_limits_too():
    tags = table("tags", 20)
    engine = Engine({"tags": feature("tags", tags, 8, None)}, 2)
    everything = [np.arange(20)] * 8
    _, stats = engine.encode({"tags": everything})
    assert stats.max_ids_per_partition["tags"].max() == 4 * 10


def test_limits_grow_with_headroom_and_never_shrink():
    now = kernels.Limits(256, 256, 1024)
    assert kernels.raise_limits(now, Seen(10, 10, 10)) == now
    assert kernels.raise_limits(now, Seen(320, 100, 900)) == kernels.Limits(416, 256, 1152)
    most = kernels.Limits(352, 352, 2048)
    assert kernels.raise_limits(now, Seen(320, 300, 1100), maximum=most) == kernels.Limits(
        352, 352, 1408
    )
    assert kernels.raise_limits(now, Seen(257, 1, 1), headroom=1) == kernels.Limits(288, 256, 1024)
    # A maximum that is too small does not keep a batch out.
    assert kernels.raise_limits(now, Seen(500, 1, 1), maximum=most).max_ids_per_partition == 504
    with pytest.raises(kernels.SpecError, match="headroom"):
        kernels.raise_limits(now, Seen(1, 1, 1), headroom=0.5)


def test_a_plan_raises_its_limits_to_hold_a_batch():
    specs = several_features(32)
    small = {name: kernels.Limits(8, 8, 64) for name in plan_of(specs).limits}
    engine = Engine(specs, 2, 2, limits=small)
    ids = random_ids(specs, 0)
    with pytest.raises(kernels.LimitsExceeded, match='limits="auto"'):
        engine.encode(ids)
    _, stats = engine.encode(ids, allow_id_dropping=True)
    seen = {
        name: Seen(
            int(stats.max_ids_per_partition[name].max()),
            int(stats.max_unique_ids_per_partition[name].max()),
            int(stats.get_required_buffer_size_per_device(name, 2)),
        )
        for name in small
    }
    raised = engine.plan.with_raised_limits(seen)
    assert raised.version == 1
    assert raised.hash != engine.plan.hash
    assert raised.with_raised_limits(seen) is raised
    assert raised == kernels.build_plan(
        specs, raised.topology, batch_size=32, limits=raised.limits, version=1
    )
    engine.placed = kernels.apply_plan(raised, specs)
    _, stats = engine.encode(ids)
    assert sum(stats.id_drop_counters.values()) == 0
    with pytest.raises(kernels.SpecError, match="no stack 'x'"):
        raised.with_raised_limits({"x": seen[next(iter(seen))]})


def test_bytes_per_device_are_those_of_the_arrays():
    engine = Engine(several_features(32), 2, 2)
    tables = engine.tables()
    batch, _ = engine.encode(random_ids(engine.specs, 0))
    memory: MemoryEstimate = engine.plan.memory
    assert memory.tables * 2 == sum(v.table.nbytes for v in tables.values())
    assert memory.slots * 2 == sum(slot.nbytes for v in tables.values() for slot in v.slot)
    buffers = jax.tree.leaves(batch.sparse_dense_matmul_input)
    assert memory.input_buffers * 2 == sum(array.nbytes for array in buffers)
    assert engine.plan.bytes_per_device == memory.total
    row_wise = plan_of(several_features(32, optimizer=kernels.RowWiseAdagradOptimizerSpec(0.1)))
    assert row_wise.memory.slots * 16 == row_wise.memory.tables


def test_memory_is_explained():
    specs = several_features(4096, optimizer=kernels.RowWiseAdagradOptimizerSpec(0.1))
    plan = kernels.build_plan(specs, kernels.Topology(2, 4, 2), batch_size=4096)
    first, header, *lines = plan.explain_memory().splitlines()
    assert "8 devices" in first and "4096" in first
    columns = header.split()
    assert columns[0] == "stack" and columns[-2:] == ["total", "padding"]
    assert [line.split()[0] for line in lines[:-2]] == [*(s.name for s in plan.stacks), "all"]
    units = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
    for line, memory in zip(lines, (*(s.memory for s in plan.stacks), plan.memory), strict=False):
        cells = line.split()[1:]
        shown = [float(n) * units[unit] for n, unit in zip(cells[::2], cells[1::2], strict=True)]
        # Rounded to a tenth of the unit: at most 5 % off.
        assert shown[-2] == pytest.approx(memory.total, rel=0.05)
        assert sum(shown[:-2]) == pytest.approx(memory.total, rel=0.05)
        assert shown[-1] == pytest.approx(memory.padding, rel=0.05)


def test_padding_is_what_no_id_reads():
    one = {"f": feature("f", table("t", 100, 12), 32)}
    plan = kernels.build_plan(one, kernels.Topology(1, 2, 2), batch_size=32)
    # 128 rows of 16 columns for 100 of 12; table and accumulator; half of it on each device.
    assert plan.memory.padding == (128 * 16 - 100 * 12) * 2 * 4 // 2
    assert plan.memory.gradients == plan.memory.activations == 32 // 2 * 16 * 4
    full = {"f": feature("f", table("t", 128, 16), 32)}
    plan = kernels.build_plan(full, kernels.Topology(1, 2, 2), batch_size=32)
    assert plan.memory.padding == 0
