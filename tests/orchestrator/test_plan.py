"""``plan``: bytes, padding, exchange and the time of a step, from a configuration."""

from __future__ import annotations

import json
import math
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from kernels import AdagradOptimizerSpec, FeatureSpec, TableSpec, Topology, build_plan
from kernels.optimizers import RowWiseAdagradOptimizerSpec
from kernels.planning.traffic import StackDemand, Traffic, stack_traffic
from orchestrator import step_time as step_time_module
from orchestrator.chips import CHIPS, all_reduce_speed, all_to_all_speed
from orchestrator.cli import main
from orchestrator.config_loading import load_config
from orchestrator.plan_command import _BATCHES
from orchestrator.plan_figures import plan_figures
from orchestrator.plan_tables import rows_imbalance, table_figures
from orchestrator.quantities import seconds_text, size_text
from orchestrator.step_time import Speeds, slice_speeds, step_time
from orchestrator.topology import GENERATIONS, slice_topology
from workers.data.demand import SURVEYED_BATCHES
from workers.dense_cost import DenseCost
from workers.host import SURVEY_BATCHES

PAGE = (Path(__file__).parents[2] / "docs" / "plan.md").read_text()


def table(name, rows, width, optimizer):
    return TableSpec(
        name=name,
        vocabulary_size=rows,
        embedding_dim=width,
        initializer=np.zeros,  # pyright: ignore[reportArgumentType] - never called
        optimizer=optimizer,
        combiner="sum",
    )


def plan_of(tables, topology, batch_size):
    features = {
        t.name: FeatureSpec(
            name=t.name,
            table_spec=t,
            input_shape=(batch_size, 1),
            output_shape=(batch_size, t.embedding_dim),
        )
        for t in tables
    }
    return build_plan(features, topology, batch_size=batch_size)


def test_tables_tell_their_bytes_and_padding():
    slots = {"full": AdagradOptimizerSpec(0.1), "row": RowWiseAdagradOptimizerSpec(0.1)}
    plan = plan_of(
        [table(name, 100, 10, optimizer) for name, optimizer in slots.items()],
        Topology(hosts=2, devices_per_host=2, sparsecores_per_device=2),
        batch_size=16,
    )
    found = {figures.name: figures for figures in table_figures(plan)}
    assert {(one.padded_rows, one.padded_width) for one in found.values()} == {(128, 16)}
    assert (found["full"].table, found["full"].slots) == (128 * 16 * 4, 128 * 16 * 4)
    assert found["full"].padding == 2 * (128 * 16 - 100 * 10) * 4
    assert found["row"].slots == 128 * 4
    assert found["row"].padding == (128 * 17 - 100 * 11) * 4
    # What the plan says of a device, times the devices, is the same; it rounds down.
    devices = plan.topology.devices
    assert sum(one.padding for one in found.values()) == pytest.approx(
        devices * plan.memory.padding, abs=4 * devices * len(found)
    )
    for part in ("table", "slots"):
        whole = getattr(plan.memory, {"table": "tables"}.get(part, part))
        assert sum(getattr(one, part) for one in found.values()) == devices * whole


def test_rows_with_an_id_are_spread_evenly_but_for_the_last():
    spec = table("t", 9, 8, AdagradOptimizerSpec(0.1))
    plan = plan_of([spec], Topology(1, 4, 2), batch_size=8)
    # 9 rows on 8 SparseCores: one device has 3 of them, the others 2.
    assert rows_imbalance(plan) == pytest.approx(3 / (9 / 4))


def demand(devices, cores, **changed):
    values = {
        "entries": np.full(devices, 8.0),
        "asked": np.full(devices, 6.0),
        "answered": np.full(cores, 6.0 * devices / cores),
        "different": np.full(cores, 2.0),
        "asked_elsewhere": np.full(devices, 3.0),
        "answered_elsewhere": np.full(devices, 3.0),
        "off_host": 0.0,
    }
    return StackDemand(**values | changed)


def test_traffic_counts_rows_where_they_are_and_on_their_way():
    spec = table("t", 1000, 16, AdagradOptimizerSpec(0.1))
    alone = plan_of([spec], Topology(1, 1, 1), batch_size=8)
    row = 16 * 4
    one = demand(1, 1, answered=np.array([6.0]), different=np.array([6.0]))
    found = stack_traffic(alone.stacks[0], alone.topology, one)
    assert found.lookup == 8 * 12 + 8 * row + 6 * row
    assert found.update == 8 * 12 + 8 * row + 6 * 2 * 2 * row
    assert found.sent == 0
    assert found.even == found.lookup + found.update

    four = plan_of([spec], Topology(1, 2, 2), batch_size=8)
    found = stack_traffic(four.stacks[0], four.topology, demand(2, 4))
    assert found.lookup == 8 * 12 + 4 * row + 6 * row + 2 * 3 * 2 * row
    assert found.update == 8 * 12 + 4 * row + 6 * row + 2 * (2 * 2 * 2 * row + 3 * row)
    assert found.sent == 3 * (2 * 4 + row) + 3 * row
    # One SparseCore asked for everything: its device takes as if the other were as busy.
    hot = demand(2, 4, answered=np.array([12.0, 0, 0, 0]))
    busy = stack_traffic(four.stacks[0], four.topology, hot)
    assert busy.lookup == found.lookup + 2 * 9 * 2 * row
    assert busy.even == found.even


def test_chips_are_those_of_the_topologies():
    assert CHIPS.keys() == GENERATIONS.keys()
    for name, generation in GENERATIONS.items():
        per_chip = generation.devices_per_chip * generation.sparsecores_per_device
        assert CHIPS[name].sparsecores == per_chip


def test_a_torus_has_the_bisection_that_is_published():
    """Google's page "TPU v6e": 3.2 TB/s between the halves of a pod of 256 chips."""
    chips = 256
    across = all_to_all_speed(slice_topology("v6e-256")) * (chips / 2) ** 2 / (chips - 1)
    assert across == pytest.approx(3.2e12)
    # Four chips in a square: a half of two chips, with two links, sends two thirds across.
    assert all_to_all_speed(slice_topology("v6e-4")) == pytest.approx(2 * 100e9 * 3 / (2 * 2))
    assert all_to_all_speed(slice_topology("v6e-1")) == math.inf
    assert all_reduce_speed(slice_topology("v6e-1")) == math.inf
    # A cube of 4 × 4 × 4 is a torus, what is smaller is not.
    cube, below = (all_to_all_speed(slice_topology(name)) for name in ("v5p-128", "v5p-64"))
    assert cube == pytest.approx(2 * below, rel=0.02)
    # Between slices goes what does not stay in one, over a network that is slower.
    two = all_to_all_speed(slice_topology("v6e-16", slices=2))
    assert two == pytest.approx(CHIPS["v6e"].network / (16 / 31))
    assert all_reduce_speed(slice_topology("v6e-16", 2)) < all_reduce_speed(
        slice_topology("v6e-16")
    )


def test_time_is_bytes_over_speeds():
    speeds = Speeds(memory=10.0, exchange=5.0, sums=2.0, operations=100.0)
    time = step_time(Traffic(20.0, 30.0, 10.0, 40.0), DenseCost(50.0, 4), speeds)
    assert (time.lookup, time.update, time.exchange) == (2.0, 3.0, 2.0)
    assert (time.embedding, time.total, time.bound) == (7.0, 9.5, "memory")
    device = slice_speeds(slice_topology("7x-16"))
    assert device.memory == CHIPS["7x"].memory / 2


def test_quantities_have_the_unit_that_suits_them():
    assert [size_text(n) for n in (0, 1023, 2**20, 2**41)] == [
        "0 B",
        "1023 B",
        "1.0 MiB",
        "2,048.0 GiB",
    ]
    assert [seconds_text(s) for s in (1.5e-6, 0.25, 3)] == ["1.5 µs", "250 ms", "3 s"]


def test_as_many_batches_as_hosts_survey():
    assert _BATCHES == SURVEYED_BATCHES == SURVEY_BATCHES


@pytest.fixture(scope="module")
def clicks():
    """A small program and its data, on a slice of two devices a chip."""
    words = ["program=workers.programs.clicks:program", "batch_size=512"]
    return load_config(None, [*words, "cluster.topology=7x-16"])


def test_the_sample_is_what_the_hosts_would_ask_for(clicks):
    from workers.planning import make_plan, resolve_data
    from workers.program import load_program

    found = plan_figures(clicks, batches=2)
    assert found.batches == 2
    assert found.time is not None and found.traffic is not None
    (stack,) = found.exchange
    topology = found.plan.topology
    # Each sample has its ids, each asked for by somebody; a row lies on one device of 16.
    assert stack.different <= stack.asked <= stack.ids
    assert 0.4 < stack.off_host_share < 0.6
    assert stack.most_in_a_partition <= found.plan.limits[stack.stack].max_unique_ids_per_partition
    # Of 16 devices, two of each chip, an even load would send 14 of 16 rows to other chips.
    width = found.plan.stacks[0].width
    assert stack.lookup_bytes / (stack.asked * 4 * (width + 1)) == pytest.approx(14 / 16, abs=0.04)

    program = load_program(clicks.program, clicks.parameters)
    run = clicks.run_spec(resolve_data(program, None), "")
    widest = make_plan(program, run, topology.hosts, None, None, 0)
    assert found.plan.memory.tables == widest.memory.tables
    limits = found.plan.stacks[0].limits
    assert limits.max_ids_per_partition < widest.stacks[0].limits.max_ids_per_partition


def test_the_command_tells_all_of_it(clicks, capsys):
    words = shlex.split("plan program=workers.programs.clicks:program batch_size=512")
    assert main([*words, "cluster.topology=7x-16", "--batches", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["hosts"], told["devices"], told["sparsecores"]) == (2, 16, 32)
    assert told["host"]["total"] == 8 * told["device"]["total"]
    assert told["step"]["bound"]
    assert told["dense"]["operations"] > 0
    assert main([*words, "hosts=2", "--batches", "0"]) == 0
    printed = capsys.readouterr().out
    assert "No data was looked at" in printed
    assert main([*words, "--batches=-1"]) == 2
    assert "--batches is -1" in capsys.readouterr().err


def test_the_page_shows_what_the_command_tells(capsys):
    command, shown = re.findall(r"```\n\$ (python -m orchestrator plan .*)\n((?:.*\n)*?)```", PAGE)[
        0
    ]
    assert main([*shlex.split(command)[3:]]) == 0
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    for line in filter(None, (line.rstrip() for line in shown.splitlines())):
        if not line.startswith("…"):
            assert line in printed


def test_the_page_gives_the_error_that_the_command_gives():
    least, most = step_time_module.MEASURED
    assert f"{least:.1f} to {most:.1f}" in PAGE
