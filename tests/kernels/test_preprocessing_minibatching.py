"""Minibatching: byte for byte jax-tpu-embedding's, and the same on several processes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from kernels.preprocessing.highway_hash import highway_hash
from kernels.preprocessing.minibatching import (
    BUCKETS,
    Minibatching,
    bucket_of,
    minibatch_of_bucket,
    split_bits,
)
from tests.kernels.preprocessing_cases import Batch, batches, preprocessing_engine
from tests.kernels.support import Engine, feature, table

__all__ = ["preprocessing_engine"]


@given(batches(most_samples=8), st.integers(1, 24), st.integers(1, 24), st.booleans())
@settings(max_examples=150, deadline=None)
def test_minibatches_are_the_peers_byte_for_byte(batch, most, unique, drop):
    batch.limit(most, unique)
    try:
        batch.encode(enable_minibatching=True, allow_id_dropping=drop)
    except kernels.LimitsExceeded as error:
        # jax-tpu-embedding ends the process here: one bucket alone exceeds the limits.
        assert not drop
        assert all(o.observed > o.allowed for o in error.overflows)
        return
    batch.assert_like_the_peer(enable_minibatching=True, allow_id_dropping=drop)


@given(batches(most_samples=8), st.integers(1, 8), st.integers(1, 50))
@settings(max_examples=100, deadline=None)
def test_a_full_buffer_drops_what_the_peer_drops(batch, most, buffer):
    batch.limit(most, most, buffer)
    batch.assert_like_the_peer(enable_minibatching=True, allow_id_dropping=True)


@pytest.mark.parametrize(("most", "count"), [(256, 1), (30, 2), (8, 8), (4, 16), (1, 53)])
def test_tighter_limits_take_more_minibatches(most, count):
    engine = Engine({"f": feature("f", table("t", 1000), 16, 8)}, 1, 2)
    batch = Batch(engine, {"f": np.random.default_rng(0).integers(0, 1000, (16, 8))}, None)
    batch.limit(most, most)
    options = {"enable_minibatching": True, "allow_id_dropping": most < 8}
    assert batch.assert_like_the_peer(**options) == count


def test_a_full_buffer_is_an_error_unless_ids_may_be_dropped():
    engine = Engine({"f": feature("f", table("t", 1000), 16, 8)}, 1, 2)
    ids = {"f": np.random.default_rng(0).integers(0, 1000, (16, 8))}
    batch = Batch(engine, ids, None)
    batch.limit(8, 8, 128)
    with pytest.raises(kernels.LimitsExceeded) as caught:
        batch.encode(enable_minibatching=True)
    (overflow,) = caught.value.overflows
    assert (overflow.limit, overflow.allowed) == ("buffer_size_per_device", 128)
    batch.limit(8, 8, overflow.observed)
    assert batch.assert_like_the_peer(enable_minibatching=True) == 8


def test_an_id_that_many_samples_ask_for_cannot_be_split():
    engine = Engine({"f": feature("f", table("t", 1000), 64, 1)}, 1, 2)
    batch = Batch(engine, {"f": np.full((64, 1), 6)}, None)
    batch.limit(8, 8)
    with pytest.raises(kernels.LimitsExceeded) as caught:
        batch.encode(enable_minibatching=True)
    (overflow,) = caught.value.overflows
    assert (overflow.limit, overflow.observed) == ("max_ids_per_partition", 32)
    _, stats = batch.encode(enable_minibatching=True, allow_id_dropping=True)
    assert stats.id_drop_counters["t"] == 2 * (32 - 8)


def test_unused_pointers_repeat_the_end():
    batch = Batch(
        Engine({"f": feature("f", table("t", 1000), 16, 8)}, 1, 2),
        {"f": np.random.default_rng(0).integers(0, 1000, (16, 8))},
        None,
    )
    batch.limit(16, 16)
    preprocessed, _ = batch.encode(enable_minibatching=True)
    count = int(preprocessed.num_minibatches[0])
    pointers = preprocessed.lhs_row_pointers["t"].reshape(-1, 8)
    end = -(-pointers[2 * count - 1, 1] // 8) * 8
    assert count > 1
    assert pointers.shape == (2 * BUCKETS, 8)
    assert (pointers[2 * count :] == end).all()
    assert (np.diff(pointers.ravel()) >= 0).all()


def test_cuts_are_those_of_the_drawing():
    counts = np.zeros((1, BUCKETS), dtype=np.int64)
    counts[0, :8] = [2, 5, 1, 6, 3, 4, 2, 0]
    bits = split_bits(counts, 7)
    assert bits == 0b11 << 32 | 1 << 48
    assert minibatch_of_bucket(bits)[:8].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert split_bits(counts, 23) == 0
    everything = split_bits(np.ones((3, BUCKETS)), 1)
    assert everything == 2 ** (BUCKETS - 1) - 1
    assert minibatch_of_bucket(everything).tolist() == list(range(BUCKETS))
    assert (minibatch_of_bucket(0) == 0).all()


@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_no_minibatch_exceeds_the_limit_if_no_bucket_does(seed, most):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, most + 1, (4, BUCKETS))
    limit = int(counts.max()) + int(rng.integers(0, 100))
    minibatch = minibatch_of_bucket(split_bits(counts, limit))
    for partition in counts:
        assert np.bincount(minibatch, weights=partition).max() <= limit


def test_hashes_do_not_change():
    """Else hosts of different versions would not agree, nor with jax-tpu-embedding."""
    columns = np.array([0, 1, 2**31 - 1, -1, 12345, 2**32 + 1])
    hashes = highway_hash(columns)
    assert hashes[1] == hashes[5]
    assert bucket_of(columns).tolist() == [int(value) % 64 for value in hashes]
    assert bucket_of(np.arange(8)).tolist() == [7, 39, 13, 35, 34, 53, 9, 54]
    assert bucket_of(np.zeros(0, dtype=np.int64)).size == 0


def in_threads(count: int, run: Callable[[int], Any]) -> list[Any]:
    """What each of several processes would return; errors too."""

    def caught(number: int) -> Any:
        try:
            return run(number)
        except kernels.EmberayError as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(caught, range(count)))


class Link:
    """An all-reduce between threads."""

    def __init__(self, count: int) -> None:
        self.barrier = threading.Barrier(count, timeout=30)
        self.lock = threading.Lock()
        self.totals: dict[int, int] = {}

    def all_reduce(self, key: int, value: int) -> int:
        with self.lock:
            self.totals[key] = self.totals.get(key, 0) | value
        self.barrier.wait()
        return self.totals[key]


def halves(link: Link, ids: dict[str, Any], engine: Engine, **options: Any) -> list[Any]:
    """The batch on two processes."""

    def half(number: int) -> Any:
        share = {name: np.split(value, 2)[number] for name, value in ids.items()}
        return kernels.preprocess_sparse_dense_matmul_input(
            share,
            None,
            engine.placed,
            engine.devices // 2,
            engine.devices,
            num_sc_per_device=engine.per_device,
            enable_minibatching=True,
            all_reduce_interface=link,
            **options,
        )

    return in_threads(2, half)


def test_two_processes_agree_and_make_together_what_one_makes():
    specs = {"f": feature("f", table("t", 500), 32, 6), "g": feature("g", table("u", 90), 32, 3)}
    engine = Engine(specs, 4, 2)
    rng = np.random.default_rng(1)
    # The second process's half would fit: it has few ids.
    ids = {"f": rng.integers(0, 500, (32, 6)), "g": rng.integers(0, 90, (32, 3))}
    for value in ids.values():
        value[16:, 1:] = -1
    batch = Batch(engine, ids, None)
    batch.limit(8, 8)
    whole, _ = batch.encode(enable_minibatching=True)
    assert whole.num_minibatches[0] > 1
    parts = [part for part, _ in halves(Link(2), ids, engine, batch_number=7)]
    joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(joined), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("limit", [8, 256])
def test_a_process_that_cannot_encode_tells_the_others(limit):
    engine = Engine({"f": feature("f", table("t", 500), 32, 6)}, 2, 2)
    ids = {"f": np.random.default_rng(1).integers(0, 500, (32, 6))}
    batch = Batch(engine, ids, None)
    batch.limit(limit, limit)
    ids["f"][3, 2] = 500
    first, second = halves(Link(2), ids, engine)
    assert "sample 3 holds id 500" in str(first)
    assert "another process could not encode its share" in str(second)
    ids["f"][:16] = 7  # one bucket alone exceeds the limit: known in the second step only
    batch.limit(5, 5)
    first, second = halves(Link(2), ids, engine)
    assert isinstance(first, kernels.LimitsExceeded)
    assert "another process could not encode its share" in str(second)


def test_several_processes_need_a_link():
    engine = Engine({"f": feature("f", table("t", 500), 32, 6)}, 2, 2)
    with pytest.raises(kernels.SpecError, match="all_reduce_interface must be provided when"):
        kernels.preprocess_sparse_dense_matmul_input(
            {"f": np.zeros((16, 6), np.int32)},
            None,
            engine.placed,
            1,
            2,
            num_sc_per_device=2,
            enable_minibatching=True,
        )


def test_exchanges_have_keys_of_their_own():
    keys = []

    class Recorder:
        def all_reduce(self, key: int, value: int) -> int:
            keys.append((key, value))
            return value

    agreement = Minibatching(Recorder(), 21)
    assert agreement.needed(True)
    assert agreement.splits(6) == 6
    agreement.give_up()
    assert keys == [(42, 1), (43, 6)]
    assert not Minibatching(None, 3).needed(False)
