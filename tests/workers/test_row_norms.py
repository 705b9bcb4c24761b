"""Histograms of norms, against numpy: over stackings, devices, SparseCores, and splits of rows."""

from __future__ import annotations

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import (
    EmbeddingPlan,
    EmbeddingVariables,
    FeatureSpec,
    SGDOptimizerSpec,
    TableSpec,
    Topology,
    build_plan,
    stack_tables_into,
)
from kernels.layout import place_rows
from workers import row_norms
from workers.mesh import make_mesh, spread
from workers.norm_histogram import BINS, EDGES, HIGHEST, LOWEST, NormHistogram, merge_norms
from workers.row_norms import ends_of_pieces, make_norms_step, norms_on_host, pieces_of

BATCH = 96
"""Divided by every number of SparseCores used here."""


def plan_of(
    tables: list[tuple[int, int]], devices: int, sparsecores: int, stacked: bool
) -> EmbeddingPlan:
    specs = [
        FeatureSpec(
            name=f"feature-{number}",
            table_spec=TableSpec(
                name=f"table-{number}",
                vocabulary_size=rows,
                embedding_dim=columns,
                initializer=jax.nn.initializers.normal(1.0),
                optimizer=SGDOptimizerSpec(learning_rate=0.1),
                combiner="sum",
            ),
            input_shape=(BATCH, 1),
            output_shape=(BATCH, columns),
        )
        for number, (rows, columns) in enumerate(tables)
    ]
    return build_plan(specs, Topology(1, devices, sparsecores), batch_size=BATCH, stack=stacked)


def values_of(rows: int, columns: int, seed: int) -> np.ndarray:
    """Whole numbers, whose squares add up exactly in any order; times a power of two per row."""
    generator = np.random.default_rng(seed)
    whole = generator.integers(-3, 4, (rows, columns)).astype(np.float32)
    scaled = whole * 2.0 ** generator.integers(-26, 12, (rows, 1)).astype(np.float32)
    scaled[generator.random(rows) < 0.1] = 0.0
    scaled[generator.random(rows) < 0.05, 0] = np.nan
    scaled[generator.random(rows) < 0.05, -1] = np.inf
    return scaled


def expected(table: np.ndarray) -> NormHistogram:
    """What numpy counts, row by row."""
    values = table.astype(np.float32)
    with np.errstate(invalid="ignore"):
        norms = np.sqrt(np.sum(values * values, axis=1, dtype=np.float32))
    return expected_of_norms(norms)


def expected_of_norms(found: np.ndarray) -> NormHistogram:
    finite = found[np.isfinite(found)]
    return NormHistogram.of_bins(
        np.histogram(finite[(finite >= LOWEST) & (finite < HIGHEST)], np.array(EDGES))[0].tolist(),
        not_finite=len(found) - len(finite),
        zero=int(np.sum(finite == 0)),
        below=int(np.sum((finite > 0) & (finite < LOWEST))),
        above=int(np.sum(finite >= HIGHEST)),
        least=float(finite.min()) if finite.size else None,
        most=float(finite.max()) if finite.size else None,
        total=float(np.sum(finite, dtype=np.float64)),
        squares=float(np.sum(finite.astype(np.float64) ** 2)),
    )


def counted(plan: EmbeddingPlan, tables: dict[str, np.ndarray], dtype: Any = jnp.float32):
    """Norms as a host counts them, where padding is not a number."""
    mesh = make_mesh(jax.devices()[: plan.topology.devices])
    padding = {
        stack.name: EmbeddingVariables(np.full((stack.vocab_size, stack.width), np.nan), ())
        for stack in plan.stacks
    }
    logical = {name: EmbeddingVariables(table, ()) for name, table in tables.items()}
    arrays = {
        name: jax.device_put(jnp.asarray(variables.table, dtype), spread(mesh))
        for name, variables in stack_tables_into(plan, padding, logical).items()
    }
    return norms_on_host(plan, make_norms_step(plan, mesh)(arrays))


def assert_same(found: NormHistogram, want: NormHistogram) -> None:
    exact = ("rows", "not_finite", "zero", "below", "above", "first", "counts", "least", "most")
    for name in exact:
        assert getattr(found, name) == getattr(want, name), name
    assert found.total == pytest.approx(want.total, rel=1e-5)
    assert found.squares == pytest.approx(want.squares, rel=1e-5)


@given(
    topology=st.tuples(st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 3, 4])),
    stacked=st.booleans(),
    tables=st.lists(st.tuples(st.integers(1, 700), st.integers(1, 12)), min_size=1, max_size=4),
    most=st.sampled_from([8, 40, 1 << 15]),
)
@settings(max_examples=25, deadline=None)
def test_pieces_name_every_row_of_every_table_once(
    topology: tuple[int, int], stacked: bool, tables: list[tuple[int, int]], most: int
) -> None:
    plan = plan_of(tables, *topology, stacked)
    devices, cores = topology
    for stack in plan.stacks:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(row_norms, "MOST_ROWS", most)  # so that tables take several pieces
            pieces, block, owners = pieces_of(stack, plan)
        rows = stack.vocab_size // devices
        at = pieces.start[:, None] + np.arange(block)
        assert at.min() >= 0 and at.max() < rows
        for owner, placed in enumerate(stack.tables):
            size = plan.table(placed.table).vocabulary_size
            want = place_rows(
                *(np.arange(size), devices * cores),
                rotation=placed.shard_rotation,
                row_offset=placed.row_offset_in_shard,
            )
            shard_rows = stack.vocab_size // (devices * cores)
            lies = np.sort(want[0] * shard_rows + want[1])
            taken = []
            for device in range(devices):
                ends = ends_of_pieces(pieces, device, plan.topology)
                mine = (np.arange(block) >= pieces.skipped[:, None]) & (
                    np.arange(block) < ends[:, None]
                )
                mine &= (owners == owner)[:, None]
                taken.append(device * rows + at[mine])
            np.testing.assert_array_equal(np.sort(np.concatenate(taken)), lies)


@pytest.mark.parametrize(
    ("tables", "devices", "sparsecores", "stacked", "most"),
    [
        ([(5000, 12), (7, 12), (1, 5), (301, 3)], 1, 1, True, 1 << 15),
        ([(2000, 7), (50, 8), (301, 3)], 2, 4, True, 40),
        ([(700, 5), (9, 9)], 2, 3, False, 1 << 15),
    ],
)
def test_norms_are_those_that_numpy_finds(
    tables: list[tuple[int, int]],
    devices: int,
    sparsecores: int,
    stacked: bool,
    most: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(row_norms, "MOST_ROWS", most)
    plan = plan_of(tables, devices, sparsecores, stacked)
    held = {f"table-{n}": values_of(*shape, n) for n, shape in enumerate(tables)}
    found = counted(plan, held)
    assert found.keys() == held.keys()
    for name, table in held.items():
        assert_same(found[name], expected(table))


def test_tables_of_bfloat16_and_repeated_counts() -> None:
    plan = plan_of([(500, 8), (30, 3)], 2, 1, True)
    held = {"table-0": values_of(500, 8, 1), "table-1": values_of(30, 3, 2)}
    found = counted(plan, held, jnp.bfloat16)
    for name, table in held.items():
        assert_same(found[name], expected(table))  # so few bits are exact in bfloat16
    assert found == counted(plan, held, jnp.bfloat16)


def test_what_is_told_to_tpus_counts_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of([(300, 8), (30, 3)], 2, 4, True)
    held = {"table-0": values_of(300, 8, 1), "table-1": values_of(30, 3, 2)}
    found = counted(plan, held)
    monkeypatch.setattr(row_norms, "platform_of", lambda mesh: "tpu")
    assert counted(plan, held) == found


def test_devices_need_no_more_than_a_block_beside_the_tables() -> None:
    plan = plan_of([(400_000, 16)], 2, 2, True)
    mesh = make_mesh(jax.devices()[:2])
    (stack,) = plan.stacks
    shape = jax.ShapeDtypeStruct(
        (stack.vocab_size, stack.width), jnp.float32, sharding=spread(mesh)
    )
    compiled = make_norms_step(plan, mesh).lower({stack.name: shape}).compile()
    pieces, block, _ = pieces_of(stack, plan)
    memory = compiled.memory_analysis()
    assert memory.temp_size_in_bytes < 8 * block * stack.width * 4
    assert memory.temp_size_in_bytes < memory.argument_size_in_bytes / 2
    assert len(pieces.start) > 4
    text = compiled.as_text()
    for operation in ("all-reduce", "all-gather", "all-to-all", "collective-permute"):
        assert operation not in text, "no device waits for another"


def test_small_tables_get_small_blocks_and_large_ones_large_blocks() -> None:
    def block(*tables: tuple[int, int]) -> int:
        plan = plan_of(list(tables), 1, 1, True)
        return pieces_of(plan.stacks[0], plan)[1]

    assert block(*[(10, 8)] * 30) == 256
    assert block((3_000_000, 8)) == 1 << 15
    assert block((3_000_000, 512)) == 1 << 12


norms = st.one_of(
    st.floats(0, float(np.float32(3e38)), width=32),
    st.sampled_from([0.0, LOWEST, HIGHEST, 1.0, 1.125, 5e-7, 2000.0, np.inf, np.nan]),
)


@given(values=st.lists(norms, max_size=30), cut=st.integers(0, 30))
def test_histograms_of_parts_merge_to_that_of_all(values: list[float], cut: int) -> None:
    rows = np.array(values, np.float32).reshape(-1, 1)
    whole = expected_of_norms(rows[:, 0])
    parts = [expected_of_norms(rows[:cut, 0]), expected_of_norms(rows[cut:, 0])]
    merged = merge_norms([{"t": part} for part in parts])["t"]
    assert_same(merged, whole)
    assert NormHistogram().merge(whole) == whole
    written = json.loads(json.dumps(whole.__dict__))
    assert NormHistogram.of_record(written) == whole
    assert sum(count for *_, count in whole.buckets()) == whole.finite
    edges = [low for low, *_ in whole.buckets()] + [high for _, high, _ in whole.buckets()[-1:]]
    assert edges == sorted(edges)


def test_quantiles_are_right_within_a_bin() -> None:
    found = np.random.default_rng(0).lognormal(-1, 1, 5000).astype(np.float32)
    histogram = expected_of_norms(found)
    for share in (0.01, 0.25, 0.5, 0.9, 0.99):
        value = histogram.quantile(share)
        assert value == pytest.approx(np.quantile(found, share), rel=0.125)
    assert histogram.quantile(0) == histogram.least
    assert histogram.quantile(1) == histogram.most
    assert NormHistogram().quantile(0.5) is None
    assert expected_of_norms(np.zeros(4, np.float32)).quantile(0.5) == 0


def test_other_numbers_of_bins_are_refused() -> None:
    with pytest.raises(ValueError, match=f"3 counts, but {BINS} bins"):
        NormHistogram.of_bins([1, 2, 3])
