"""Preprocessing against jax-tpu-embedding's C++, and against an obvious version."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from kernels.preprocessing.format import UNUSED_ENTRY
from kernels.preprocessing.reference import ReferenceFeature, reference_partitions
from tests.kernels import peer
from tests.kernels.support import Engine, feature, random_ids, several_features, table

FIELDS = ("lhs_row_pointers", "lhs_embedding_ids", "lhs_sample_ids", "lhs_gains")


def used_parts(row_pointers, buffer, sources, sparsecores):
    """A buffer up to the aligned end of each SparseCore's last partition: what is initialised."""
    pointers = row_pointers.reshape(sources, -1)
    ends = -(-pointers[:, sparsecores - 1] // 8) * 8
    return [part[:end] for part, end in zip(buffer.reshape(sources, -1), ends, strict=True)]


def assert_like_the_peer(engine, ids, gains, **options):
    batch, stats = engine.encode(ids, gains, **options)
    *theirs, _, their_stats = peer.preprocess(
        engine.placed, ids, gains, engine.devices, engine.devices, engine.per_device, **options
    )
    sources, cores = engine.devices * engine.per_device, engine.plan.topology.sparsecores
    for name in engine.plan.limits:
        pointers = batch.lhs_row_pointers[name]
        assert pointers.tobytes() == theirs[0][name].tobytes()
        for field, other in zip(FIELDS[1:], theirs[1:], strict=True):
            mine = getattr(batch, field)[name]
            assert mine.dtype == other[name].dtype
            assert mine.shape == other[name].shape
            pairs = zip(
                used_parts(pointers, mine, sources, cores),
                used_parts(pointers, other[name], sources, cores),
                strict=True,
            )
            for a, b in pairs:
                np.testing.assert_array_equal(a, b, err_msg=f"{name} {field}")
        for mine_stat, their_stat in (
            (stats.max_ids_per_partition, their_stats.max_ids_per_partition),
            (stats.max_unique_ids_per_partition, their_stats.max_unique_ids_per_partition),
            (stats.required_buffer_size_per_sc, their_stats.required_buffer_sizes),
        ):
            np.testing.assert_array_equal(mine_stat[name], their_stat[name])
            assert mine_stat[name].dtype == their_stat[name].dtype
        assert stats.id_drop_counters[name] == their_stats.dropped_id_count[name]


def ragged(rows, dtype):
    value = np.empty(len(rows), dtype=object)
    for number, row in enumerate(rows):
        value[number] = np.asarray(row, dtype=dtype)
    return value


@st.composite
def batches(draw):
    """Specs, ids and gains that jax-tpu-embedding accepts."""
    sources = draw(
        st.sampled_from([(1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (2, 4), (4, 1), (4, 4)])
    )
    devices, per_device = sources
    samples = devices * per_device * draw(st.integers(1, 4))
    combiner = draw(st.sampled_from(["sum", "mean", "sqrtn"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weighted = draw(st.booleans())
    tables = [
        table(f"t{n}", draw(st.integers(1, 60)), draw(st.integers(1, 12)), combiner=combiner)
        for n in range(draw(st.integers(1, 3)))
    ]
    specs, ids, gains = {}, {}, {}
    for n in range(draw(st.integers(1, 4))):
        of, name = draw(st.sampled_from(tables)), f"f{n}"
        dtype = draw(st.sampled_from([np.int32, np.int64]))
        if draw(st.booleans()):
            valency = draw(st.integers(1, 9))
            specs[name] = feature(name, of, samples, valency)
            ids[name] = rng.integers(0, of.vocabulary_size, (samples, valency)).astype(dtype)
            gains[name] = rng.uniform(0.1, 2, (samples, valency)).astype(np.float32)
        else:
            lengths = rng.integers(0, 6, samples)
            specs[name] = feature(name, of, samples, None)
            ids[name] = ragged([rng.integers(0, of.vocabulary_size, k) for k in lengths], np.int32)
            gains[name] = ragged([rng.uniform(0.1, 2, k) for k in lengths], np.float32)
    engine = Engine(specs, devices, per_device, stack=draw(st.booleans()))
    return engine, ids, gains if weighted else None


@given(batches())
@settings(max_examples=120, deadline=None)
def test_buffers_are_the_peers_byte_for_byte(batch):
    engine, ids, gains = batch
    assert_like_the_peer(engine, ids, gains)


@given(batches(), st.integers(1, 12), st.integers(1, 12), st.integers(1, 80))
@settings(max_examples=80, deadline=None)
def test_ids_are_dropped_as_the_peer_drops_them(batch, most, unique, buffer):
    engine, ids, gains = batch
    limits = kernels.Limits(most, min(most, unique), buffer)
    engine.limits = dict.fromkeys(engine.plan.limits, limits)
    engine.__post_init__()
    assert_like_the_peer(engine, ids, gains, allow_id_dropping=True)


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
    sources = cores = devices * per_device
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
        sources,
        cores,
    )
    pointers = batch.lhs_row_pointers[stack.name].reshape(sources, -1)
    for source, asked in itertools.product(range(sources), range(cores)):
        start = 0 if asked == 0 else -(-pointers[source, asked - 1] // 8) * 8
        inside = slice(start, pointers[source, asked])
        rows, samples, values = (
            getattr(batch, field)[stack.name].reshape(sources, -1)[source, inside]
            for field in FIELDS[1:]
        )
        entries = want[source, asked]
        assert rows.tolist() == [entry[0] for entry in entries]
        assert samples.tolist() == [entry[1] for entry in entries]
        np.testing.assert_allclose(values, [entry[2] for entry in entries], rtol=1e-6)


def test_all_unused_entries_are_padding():
    specs = several_features(16)
    engine = Engine(specs, 2, 2)
    batch, stats = engine.encode({n: np.full_like(v, -1) for n, v in random_ids(specs, 0).items()})
    (name,) = engine.plan.limits
    assert (batch.lhs_embedding_ids[name] == UNUSED_ENTRY).all()
    assert (batch.lhs_sample_ids[name] == UNUSED_ENTRY).all()
    assert np.isnan(batch.lhs_gains[name]).all()
    assert (batch.lhs_row_pointers[name] == 0).all()
    assert stats.get_required_buffer_size_per_device(name, 2) == 0


def test_padding_is_as_if_the_id_were_not_there():
    tags = table("tags", 30, combiner="mean")
    rows = [[3, 5], [], [7], [1, 1, 2]]
    dense = np.full((4, 4), -1)
    for number, row in enumerate(rows):
        dense[number, : len(row)] = row
    by_dense, _ = Engine({"f": feature("f", tags, 4, 4)}, 1).encode({"f": dense})
    engine = Engine({"f": feature("f", tags, 4, 4)}, 1)
    for other in (rows, ragged(rows, np.int64)):
        by_ragged, _ = engine.encode({"f": other})
        for a, b in zip(jax.tree.leaves(by_dense), jax.tree.leaves(by_ragged), strict=True):
            np.testing.assert_array_equal(a, b)


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


def test_ids_out_of_range_are_named():
    specs = several_features(16)
    engine = Engine(specs, 2)
    ids = random_ids(specs, 0)
    ids["clicked"][11, 3] = 131
    with pytest.raises(kernels.SpecError, match=r"'clicked': sample 11 holds id 131.*'items'.*131"):
        engine.encode(ids)
    rows = list(random_ids(specs, 0)["clicked"])
    rows[5] = np.array([1, 2, 999])
    with pytest.raises(kernels.SpecError, match="sample 5 holds id 999"):
        engine.encode(ids | {"clicked": rows})


def test_inputs_that_cannot_be_meant_are_refused():
    specs = several_features(16)
    engine = Engine(specs, 2)
    ids = random_ids(specs, 0)
    with pytest.raises(kernels.SpecError, match=r"8 samples on this process.*means 16"):
        engine.encode(ids | {"day": ids["day"][:8]})
    with pytest.raises(kernels.SpecError, match="float"):
        engine.encode(ids | {"day": ids["day"].astype(np.float32)})
    with pytest.raises(kernels.SpecError, match=r"shape \(2, 8, 1\)"):
        engine.encode(ids | {"day": ids["day"].reshape(2, 8, 1)})
    with pytest.raises(kernels.SpecError, match="structure of feature_specs"):
        engine.encode({name: value for name, value in ids.items() if name != "day"})
    with pytest.raises(kernels.SpecError, match="one gain per id"):
        engine.encode(ids, {n: np.ones((len(v), 1)) for n, v in ids.items()})
    with pytest.raises(kernels.SpecError, match="raise the limits"):
        engine.encode(ids, enable_minibatching=True)
    with pytest.raises(kernels.SpecError, match="use 'MOD'"):
        engine.encode(ids, sharding_strategy="DIV")


def test_gains_that_cancel_are_refused_and_gains_of_zero_count_nothing():
    tags = table("tags", 30, combiner="mean")
    engine = Engine({"f": feature("f", tags, 2, 2)}, 1)
    ids = {"f": np.array([[1, 2], [3, 4]])}
    with pytest.raises(kernels.SpecError, match="gains of sample 1 sum to 0"):
        engine.encode(ids, {"f": np.array([[1.0, 1.0], [1.0, -1.0]])})
    batch, _ = engine.encode(ids, {"f": np.array([[1.0, 1.0], [0.0, 0.0]])})
    assert batch.lhs_gains["tags"][:4].tolist() == [0.5, 0.5, 0.0, 0.0]


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
