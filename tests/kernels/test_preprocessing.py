"""Preprocessing against jax-tpu-embedding's C++, and against an obvious version."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import kernels
from kernels.preprocessing.engine import native_is_built
from kernels.preprocessing.format import UNUSED_ENTRY
from kernels.preprocessing.reference import ReferenceFeature, reference_partitions
from tests.kernels.preprocessing_cases import (
    Batch,
    batches,
    partition,
    preprocessing_engine,
    ragged,
)
from tests.kernels.support import Engine, feature, random_ids, several_features, table

__all__ = ["preprocessing_engine"]


@given(batches())
@settings(max_examples=200, deadline=None)
def test_buffers_are_the_peers_byte_for_byte(batch):
    batch.limit(256, 256)
    assert batch.assert_like_the_peer() == 1


@given(batches(), st.integers(1, 12), st.integers(1, 12), st.integers(1, 80))
@settings(max_examples=200, deadline=None)
def test_ids_are_dropped_as_the_peer_drops_them(batch, most, unique, buffer):
    batch.limit(most, unique, None)
    sizes = kernels.compute_coo_buffer_size_per_device(
        batch.engine.placed, batch.engine.devices, batch.engine.per_device
    )
    batch.limit(most, unique, min(buffer, *sizes.values()))
    batch.assert_like_the_peer(allow_id_dropping=True)


@given(batches())
@settings(max_examples=80, deadline=None)
def test_limits_hit_exactly_are_enough_and_one_less_is_not(batch):
    """What statistics say a batch needs is what it needs."""
    batch.limit(256, 256)
    _, stats = batch.encode()
    assume(all(value.min() > 0 for value in stats.required_buffer_size_per_sc.values()))
    most = max(int(value.max()) for value in stats.max_ids_per_partition.values())
    unique = max(int(value.max()) for value in stats.max_unique_ids_per_partition.values())
    need = max(int(value.max()) for value in stats.required_buffer_size_per_sc.values())
    buffer = need * batch.engine.per_device
    batch.limit(most, unique, buffer)
    batch.assert_like_the_peer()
    for limits, name, observed in (
        ((most - 1, most - 1, buffer), "max_ids_per_partition", most),
        ((most, unique - 1, buffer), "max_unique_ids_per_partition", unique),
        ((most, unique, buffer - 8 * batch.engine.per_device), "buffer_size_per_device", buffer),
    ):
        if limits[-1] < 1 or min(limits) < 1:
            continue
        batch.limit(*limits)
        with pytest.raises(kernels.LimitsExceeded) as caught:
            batch.encode()
        assert (name, observed) in {(o.limit, o.observed) for o in caught.value.overflows}


@pytest.mark.parametrize("combiner", ["sum", "mean", "sqrtn"])
@pytest.mark.parametrize(("devices", "per_device"), [(1, 1), (3, 1), (2, 3)])
@pytest.mark.parametrize("weighted", [False, True])
def test_buffers_hold_what_the_reference_says(combiner, devices, per_device, weighted):
    """Also with padding, and numbers of SparseCores that are no power of two."""
    specs = several_features(36, combiner=combiner)
    engine = Engine(specs, devices, per_device)
    ids = random_ids(specs, 3)
    rng = np.random.default_rng(4)
    gains = {name: rng.uniform(0.1, 2, value.shape) for name, value in ids.items()}
    if not weighted:
        gains = {name: np.ones_like(value) for name, value in gains.items()}
    batch, _ = engine.encode(ids, gains if weighted else None)
    cores = devices * per_device
    (stack,) = engine.plan.stacks
    want = reference_partitions(
        [
            ReferenceFeature(
                ids[name].tolist(),
                gains[name].tolist(),
                spec.id_transformation.row_offset,
                spec.id_transformation.col_offset,
                spec.id_transformation.col_shift,
            )
            for name, spec in engine.placed.items()
        ],
        combiner,
        cores,
        cores,
    )
    for source, asked in itertools.product(range(cores), range(cores)):
        have = partition(batch, stack.name, engine, source, asked)
        entries = want[source, asked]
        assert [entry[:2] for entry in have] == [entry[:2] for entry in entries]
        np.testing.assert_allclose(
            [entry[2] for entry in have], [entry[2] for entry in entries], rtol=1e-6
        )


def test_ids_beyond_32_bits_are_rows_like_any_other():
    """Ten thousand million rows on eight SparseCores."""
    large = table("large", 10**10, 8)
    engine = Engine({"f": feature("f", large, 8, 2)}, 2, 4)
    ids = np.array([[10**10 - 1 - k, 2**31 + 8 * k] for k in range(8)])
    batch, _ = engine.encode({"f": ids})
    for source, pair in enumerate(ids.tolist()):
        for number in pair:
            entries = partition(batch, "large", engine, source, number % 8)
            assert (number // 8, 0, 1.0) in entries


def test_a_batch_without_ids_is_all_unused():
    specs = several_features(16)
    engine = Engine(specs, 2, 2)
    nothing = {n: np.full_like(v, -1) for n, v in random_ids(specs, 0).items()}
    empty = {name: [[] for _ in value] for name, value in nothing.items()}
    (name,) = engine.plan.limits
    for ids in (nothing, empty):
        batch, stats = engine.encode(ids)
        assert (batch.lhs_embedding_ids[name] == UNUSED_ENTRY).all()
        assert (batch.lhs_sample_ids[name] == UNUSED_ENTRY).all()
        assert np.isnan(batch.lhs_gains[name]).all()
        assert (batch.lhs_row_pointers[name] == 0).all()
        assert stats.get_required_buffer_size_per_device(name, 2) == 0
    rows = {f"f{n}": ragged([[]] * 8, np.int32) for n in range(2)}
    features = {name: feature(name, table("t", 9), 8, None) for name in rows}
    assert Batch(Engine(features, 2, 2), rows, None).assert_like_the_peer() == 1


def test_one_sample_may_hold_an_id_very_often():
    ids = ragged([[7] * 5000, [7, 3], [], [3] * 700], np.int32)
    gains = ragged([np.linspace(0.1, 1, len(row)) for row in ids], np.float32)
    for combiner in ("sum", "mean", "sqrtn"):
        engine = Engine({"f": feature("f", table("t", 9, combiner=combiner), 4, None)}, 1, 2)
        Batch(engine, {"f": ids}, {"f": gains}).assert_like_the_peer()
        Batch(engine, {"f": ids}, None).assert_like_the_peer()


def test_a_leading_dimension_only_reshapes():
    specs = several_features(16)
    engine = Engine(specs, 4)
    flat, _ = engine.encode(random_ids(specs, 0))
    led, _ = engine.encode(random_ids(specs, 0), has_leading_dimension=True)
    for a, b in zip(jax.tree.leaves(flat), jax.tree.leaves(led), strict=True):
        assert b.shape[0] == 4
        np.testing.assert_array_equal(a, b.reshape(-1))


def test_two_processes_make_together_what_one_makes():
    specs = several_features(16)
    engine = Engine(specs, 4)
    ids = random_ids(specs, 0)
    whole, _ = engine.encode(ids)
    halves = [
        kernels.preprocess_sparse_dense_matmul_input(
            {name: value[8 * half : 8 * half + 8] for name, value in ids.items()},
            None,
            engine.placed,
            2,
            4,
            num_sc_per_device=1,
        )[0]
        for half in range(2)
    ]
    joined = jax.tree.map(lambda *parts: np.concatenate(parts), *halves)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(joined), strict=True):
        np.testing.assert_array_equal(a, b)


def test_limits_are_named_when_exceeded():
    engine = Engine({"f": feature("f", table("tags", 100), 16, 4)}, 1)
    ids = {"f": np.arange(64).reshape(16, 4)}
    for limit, limits, observed in (
        ("max_ids_per_partition", kernels.Limits(32, 64, 64), 64),
        ("max_unique_ids_per_partition", kernels.Limits(64, 8, 64), 64),
        ("buffer_size_per_device", kernels.Limits(64, 64, 32), 64),
    ):
        engine.placed = kernels.apply_plan(engine.plan.with_limits({"tags": limits}), engine.specs)
        with pytest.raises(kernels.LimitsExceeded, match="stack 'tags'") as caught:
            engine.encode(ids)
        assert (caught.value.limit, caught.value.observed) == (limit, observed)


def test_all_limits_of_all_stacks_are_named_at_once():
    specs = {
        "f": feature("f", table("tags", 100), 16, 4),
        "g": feature("g", table("more", 100, combiner="mean"), 16, 1),
    }
    engine = Engine(specs, 1)
    tight = engine.plan.with_limits(
        {"tags": kernels.Limits(32, 8, 8), "more": kernels.Limits(8, 8, 8)}
    )
    engine.placed = kernels.apply_plan(tight, engine.specs)
    with pytest.raises(kernels.LimitsExceeded) as caught:
        engine.encode({"f": np.arange(64).reshape(16, 4), "g": np.arange(16)[:, None]})
    fields = ("max_ids_per_partition", "max_unique_ids_per_partition", "buffer_size_per_device")
    expected = {(stack, limit) for stack in ("tags", "more") for limit in fields}
    assert {(o.stack, o.limit) for o in caught.value.overflows} == expected
    assert {o.observed for o in caught.value.overflows} == {64, 16}


def test_statistics_can_be_read_and_set_per_device():
    stats = kernels.SparseDenseMatmulInputStats({}, {}, {"t": np.array([16, 24])})
    assert stats.get_required_buffer_size_per_device("t") == 48
    assert stats.get_required_buffer_size_per_device("t", 4) == 96
    assert stats.get_required_buffer_size_per_device("u") is None
    stats.set_required_buffer_size_per_device("u", 64, 2)
    assert stats.get_required_buffer_size_per_device("u") == 64
    with pytest.raises(kernels.SpecError, match="num_sc_per_device"):
        stats.set_required_buffer_size_per_device("v", 64)


def test_the_engine_asked_for_is_the_one_that_runs(preprocessing_engine):
    from kernels.preprocessing.engine import select_engine

    assert select_engine().__name__ == f"kernels.preprocessing.{preprocessing_engine}_engine"
    assert native_is_built() or preprocessing_engine == "numpy"
