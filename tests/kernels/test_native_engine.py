"""The C++ preprocessing: its pools, threads and forks, which engine is chosen, and a fuzz."""

from __future__ import annotations

import gc
import hashlib
import itertools
import os
import shutil
import subprocess
import sys
import threading
import warnings

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from kernels.preprocessing import engine as engines
from kernels.preprocessing import numpy_engine
from kernels.preprocessing.encoded import ProcessShape
from kernels.preprocessing.inputs import FeatureInput
from kernels.preprocessing.minibatching import Minibatching
from tests.kernels.support import Engine, feature, random_ids, several_features, table

FUZZ_EXAMPLES = int(os.environ.get("EMBERAY_FUZZ_EXAMPLES", "150"))

native_engine = pytest.importorskip("kernels.preprocessing.native_engine")
from kernels import _preprocess  # noqa: E402


def encoded(engine, stacks, shape, drop=False, minibatching=None):
    result = engine.encode(stacks, shape, allow_id_dropping=drop, minibatching=minibatching)
    return result.num_minibatches, {
        name: [np.asarray(value).tobytes() for value in vars(stack).values()]
        for name, stack in result.stacks.items()
    }


def arrays_of(batch):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(batch)]


def test_the_module_is_built_where_there_is_a_compiler():
    if shutil.which("c++") or shutil.which("g++") or shutil.which("clang++"):
        assert engines.native_is_built()


@pytest.fixture
def not_built(monkeypatch):
    monkeypatch.setattr(engines, "native_is_built", lambda: False)
    engines._select.cache_clear()
    yield
    engines._select.cache_clear()


def test_without_the_module_numpy_serves_and_says_so_once(not_built, monkeypatch):
    monkeypatch.delenv(engines.ENGINE_VARIABLE, raising=False)
    with pytest.warns(RuntimeWarning, match="many times slower.*install a C.. compiler"):
        assert engines.select_engine() is numpy_engine
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert engines.select_engine() is numpy_engine
    monkeypatch.setenv(engines.ENGINE_VARIABLE, "native")
    with pytest.raises(kernels.SpecError, match="was not built"):
        engines.select_engine()


def test_the_engine_can_be_chosen(monkeypatch):
    for choice, expected in (
        ("native", native_engine),
        ("auto", native_engine),
        ("numpy", numpy_engine),
    ):
        monkeypatch.setenv(engines.ENGINE_VARIABLE, choice)
        assert engines.select_engine() is expected
    monkeypatch.setenv(engines.ENGINE_VARIABLE, "fast")
    with pytest.raises(kernels.SpecError, match="'fast'; set it to"):
        engines.select_engine()


@pytest.mark.parametrize("value", ["0", "-1", "many", ""])
def test_a_number_of_threads_that_cannot_be_meant_is_refused(monkeypatch, value):
    monkeypatch.setenv(native_engine.THREADS_VARIABLE, value)
    with pytest.raises(kernels.SpecError, match="whole number of at least 1"):
        native_engine._threads()


def test_memory_is_used_again_only_when_nobody_holds_it():
    specs = several_features(64)
    engine = Engine(specs, 2, 2)
    held = [engine.encode(random_ids(specs, seed))[0] for seed in range(5)]
    copies = [[array.copy() for array in arrays_of(batch)] for batch in held]
    one_array_each = [batch.lhs_gains for batch in held]
    del held
    for seed in range(5, 15):
        engine.encode(random_ids(specs, seed))
    again = [engine.encode(random_ids(specs, seed))[0] for seed in range(5)]
    for gains, batch, copy in zip(one_array_each, again, copies, strict=True):
        for name, array in gains.items():
            np.testing.assert_array_equal(array, batch.lhs_gains[name])
        for a, b in zip(arrays_of(batch), copy, strict=True):
            np.testing.assert_array_equal(a, b)


def test_jax_may_hold_what_numpy_has_dropped():
    specs = several_features(64)
    engine = Engine(specs, 1, 4)
    batch, _ = engine.encode(random_ids(specs, 0))
    expected = [array.copy() for array in arrays_of(batch)]
    on_device = jax.device_put(batch)
    del batch
    for seed in range(1, 10):
        engine.encode(random_ids(specs, seed))
    for a, b in zip(jax.tree.leaves(on_device), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_steady_stream_allocates_nothing():
    specs = several_features(64)
    engine = Engine(specs, 2, 2)
    ids = [random_ids(specs, seed) for seed in range(3)]
    held = [engine.encode(ids[0])[0], engine.encode(ids[1])[0], engine.encode(ids[2])[0]]
    gc.collect()
    held = held[1:]
    before = native_engine.counters()
    for number in range(50):
        held = [held[1], engine.encode(ids[number % 3])[0]]
    after = native_engine.counters()
    assert after["blocks_allocated"] == before["blocks_allocated"]
    assert after["blocks_reused"] == before["blocks_reused"] + 50


def digest(batch):
    content = b"".join(array.tobytes() for array in arrays_of(batch))
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("in_minibatches", [False, True])
def test_any_number_of_threads_may_encode_at_once(in_minibatches):
    specs = several_features(1024)
    limits = dict.fromkeys(kernels.get_table_specs(specs), kernels.Limits(64, 16, 8192))
    engine = Engine(specs, 2, 2, stack=False, limits=limits if in_minibatches else None)
    options = {"enable_minibatching": in_minibatches, "allow_id_dropping": in_minibatches}
    batches = [random_ids(specs, seed) for seed in range(6)]
    batches_encoded = [engine.encode(ids, **options) for ids in batches]
    assert in_minibatches == (batches_encoded[0][0].num_minibatches[0] > 1)
    expected = [digest(batch) for batch, _ in batches_encoded]
    found = []

    def work(first):
        for number in range(30):
            which = (first + number) % len(batches)
            batch, _ = engine.encode(batches[which], **options)
            found.append(digest(batch) == expected[which])

    threads = [threading.Thread(target=work, args=(k,)) for k in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    assert len(found) == 150
    assert all(found)


IN_ANOTHER_PROCESS = """
import os, warnings
import kernels
from tests.kernels.support import random_ids, several_features
from tests.kernels.test_native_engine import digest, several_placed
def found():
    batch, _ = kernels.preprocess_sparse_dense_matmul_input(
        random_ids(several_features(2048), 1), None, several_placed(), 2, 2, num_sc_per_device=2)
    return digest(batch)
first = found()
warnings.simplefilter("ignore")
read, write = os.pipe()
child = os.fork()
if child == 0:
    os.write(write, found().encode())
    os._exit(0)
os.close(write)
in_child = os.fdopen(read).read()
assert os.waitpid(child, 0)[1] == 0
print(first, in_child, found())
"""


def several_placed():
    specs = several_features(2048)
    plan = kernels.build_plan(specs, kernels.Topology(1, 2, 2), batch_size=2048)
    return kernels.apply_plan(plan, specs)


def test_another_number_of_threads_and_a_forked_child_give_the_same():
    environment = {native_engine.THREADS_VARIABLE: "3", engines.ENGINE_VARIABLE: "native"}
    result = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS],
        env=os.environ | environment | {"LD_PRELOAD": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    batch, _ = kernels.preprocess_sparse_dense_matmul_input(
        random_ids(several_features(2048), 1), None, several_placed(), 2, 2, num_sc_per_device=2
    )
    assert result.stdout.split() == [digest(batch)] * 3


@pytest.mark.parametrize(
    ("features", "stacks"),
    [
        ([()], [(1, 8, 8, 8)]),
        ([(None, None, None, 4, 9, 0, 0, 0, 0)], [(1, 8, 8, 8)]),
        ([(np.zeros((4, 1), np.float32), None, None, 4, 9, 0, 0, 0, 0)], [(1, 8, 8, 8)]),
        ([(np.zeros((4, 1), np.int32), None, None, 5, 9, 0, 0, 0, 0)], [(1, 8, 8, 8)]),
        ([(np.zeros((8, 2), np.int32)[::2], None, None, 4, 9, 0, 0, 0, 0)], [(1, 8, 8, 8)]),
        ([(np.zeros((4, 1), np.int32), None, None, 4, 2**40, 0, 0, 0, 0)], [(1, 8, 8, 8)]),
        ([(np.zeros((4, 1), np.int32), None, None, 4, 9, 2**31, 0, 0, 0)], [(1, 8, 8, 8)]),
        ([(np.zeros((4, 1), np.int32), None, None, 4, 9, 0, 2**31, 0, 0)], [(1, 8, 8, 8)]),
        ([(np.zeros((4, 1), np.int32), None, None, 4, 9, 0, 0, 7, 0)], [(1, 8, 8, 8)]),
        ([(np.zeros((4, 1), np.int32), None, None, 4, 9, 0, 0, 0, 3)], [(1, 8, 8, 8)]),
        ([(np.zeros((4, 1), np.int32), None, None, 4, 9, 0, 0, 0, 0)], [(2, 8, 8, 8)]),
        ([(np.zeros((4, 1), np.int32), None, None, 4, 9, 0, 0, 0, 0)], [(1, 8, 8, 7)]),
        ([(np.zeros((4, 1), np.int32), None, None, 4, 9, 0, 0, 0, 0)], [(1, 8, 8, -8)]),
        ([(np.zeros(4, np.int32), np.zeros(4, np.int32), None, 4, 9, 0, 0, 0, 0)], [(1, 8, 8, 8)]),
    ],
)
def test_the_module_refuses_what_it_was_not_made_for(features, stacks):
    with pytest.raises((ValueError, TypeError)):
        _preprocess.encode(features, stacks, 1, 2, 2)


def test_the_module_tells_codes_and_positions():
    def code(ids, offsets=None, gains=None, combiner=1):
        samples = len(ids) if offsets is None else len(offsets) - 1
        one = (ids, offsets, gains, samples, 9, 0, 0, 0, combiner)
        return _preprocess.encode([one], [(1, 8, 8, 64)], 1, 2, 2)

    dense = np.zeros((4, 2), np.int64)
    ones = np.ones((4, 2), np.float32)
    assert isinstance(code(dense, None, ones), list)
    flat, offsets = dense.reshape(-1), np.array([0, 2, 4, 9, 8])
    assert code(flat, offsets) == (1, 0, 2)
    for value in (9, -2, 2**40, -(2**63)):
        dense[3, 1] = value
        assert code(dense) == (3, 0, 3)
    dense[3, 1] = -1
    for value in (np.nan, np.inf, -np.inf):
        ones[3, 1] = value
        assert isinstance(code(dense, None, ones), list)  # the gain of padding
        ones[1, 0] = value
        assert code(dense, None, ones) == (4, 0, 1)
        ones[1, 0] = 1
    ones[2] = [1, -1]
    assert code(dense, None, ones) == (5, 0, 2)


def hostile_ids(rng, shape, vocabulary):
    ids = rng.integers(0, vocabulary, shape).astype(rng.choice([np.int32, np.int64]))
    if ids.size and rng.random() < 0.5:
        ids[rng.random(shape) < 0.2] = -1
    if ids.size and rng.random() < 0.2:
        extreme = [vocabulary, -2, np.iinfo(ids.dtype).max, np.iinfo(ids.dtype).min]
        ids.reshape(-1)[rng.integers(ids.size)] = rng.choice(extreme)
    return ids


def hostile_gains(rng, shape):
    gains = rng.uniform(-1, 2, shape).astype(np.float32)
    if gains.size and rng.random() < 0.3:
        values = [0, np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45]
        gains.reshape(-1)[rng.integers(gains.size, size=3)] = rng.choice(values, 3)
    return gains


def hostile_input(rng, spec, samples):
    """One feature's input, which more often than not is wrong somewhere."""
    vocabulary, weighted = spec.table_spec.vocabulary_size, rng.random() < 0.5
    form = rng.choice(["dense", "strided", "offsets", "sparse", "rows"])
    if form in ("dense", "strided"):
        ids = hostile_ids(rng, (samples, int(rng.integers(0, 7))), vocabulary)
        gains = hostile_gains(rng, ids.shape) if weighted else None
        if form == "strided":
            ids = np.repeat(ids, 2, axis=1)[:, ::2]
        return FeatureInput(spec, samples, ids, gains)
    alike = rng.random() < 0.4
    lengths = np.full(samples, rng.integers(5)) if alike else rng.integers(0, 5, samples)
    total = int(lengths.sum())
    ids = hostile_ids(rng, total, vocabulary)
    gains = hostile_gains(rng, total) if weighted else None
    if form == "sparse":
        sample_of_id = np.repeat(np.arange(samples), lengths)
        if total and rng.random() < 0.3:
            sample_of_id[rng.integers(total)] = rng.choice([-1, samples, 0, samples - 1, 2**40])
        return FeatureInput(spec, samples, ids, gains, sample_of_id=sample_of_id)
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(rng.choice([np.int32, np.int64]))
    if form == "offsets":
        if rng.random() < 0.4:
            extreme = [-1, total + 1, np.iinfo(offsets.dtype).max, np.iinfo(offsets.dtype).min, 0]
            offsets[rng.integers(offsets.size)] = rng.choice(extreme)
        return FeatureInput(spec, samples, ids, gains, offsets)
    rows = [ids[a:b] for a, b in itertools.pairwise(offsets)]
    weights = None
    if gains is not None:
        weights = [gains[a:b] for a, b in itertools.pairwise(offsets)]
    strange = [
        None, [], [1, 2], 3, "x", np.zeros((1, 1), np.int32), np.zeros(2, np.float32),
        np.zeros(2, ">i4"), np.arange(6)[::2], np.zeros(0), np.arange(2, dtype=np.uint8),
        ids[: lengths[0]].astype(np.int64), np.ones(lengths[0]),
    ]  # fmt: skip
    if rng.random() < 0.4:
        rows[rng.integers(samples)] = strange[rng.integers(len(strange))]
    if weights is not None and rng.random() < 0.3:
        weights[rng.integers(samples)] = strange[rng.integers(len(strange))]
    return FeatureInput(spec, samples, rows, weights)


class OtherProcesses:
    """A link to processes that ask for what they like."""

    def __init__(self, *theirs):
        self.theirs = list(theirs)
        self.mine = []

    def all_reduce(self, key, value):
        self.mine.append((key, value))
        return value | self.theirs.pop(0)


@given(st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=2 * FUZZ_EXAMPLES, deadline=None)
def test_hostile_input_is_the_same_error_or_the_same_bytes(seed, in_minibatches):
    rng = np.random.default_rng(seed)
    devices, per_device = int(rng.choice([1, 2, 3])), int(rng.choice([1, 2, 4]))
    samples = devices * per_device * int(rng.integers(1, 4))
    combiner = str(rng.choice(["sum", "mean", "sqrtn"]))
    tables = [table(f"t{n}", int(rng.integers(1, 90)), combiner=combiner) for n in range(3)]
    specs = {f"f{n}": feature(f"f{n}", tables[n % 3], samples, 4) for n in range(5)}
    plan = kernels.build_plan(
        specs, kernels.Topology(1, devices, per_device), batch_size=samples, stack=True
    )
    if rng.random() < 0.5:
        most, unique, buffer = (int(rng.integers(1, 40)) for _ in range(3))
        plan = plan.with_limits(
            dict.fromkeys(plan.limits, kernels.Limits(most, min(most, unique), buffer))
        )
    stacks = {}
    for spec in kernels.apply_plan(plan, specs).values():
        name = spec.table_spec.stacked_table_spec.stack_name
        stacks.setdefault(name, []).append(hostile_input(rng, spec, samples))
    drop = bool(rng.random() < 0.5)
    theirs = int(rng.random() < 0.3), int(rng.integers(0, 2**63)) * int(rng.random() < 0.3)
    outcomes = []
    for engine in (numpy_engine, native_engine):
        link = OtherProcesses(*theirs)
        agreement = Minibatching(link, 5) if in_minibatches else None
        shape = ProcessShape(devices, devices, per_device)
        try:
            outcome = encoded(engine, stacks, shape, drop, agreement)
        except (kernels.SpecError, kernels.LimitsExceeded) as error:
            outcome = f"{type(error).__name__}: {error}"
        outcomes.append((link.mine, outcome))
    assert outcomes[0] == outcomes[1]


def test_steps_out_of_order_are_refused():
    def begun():
        ids = np.arange(64, dtype=np.int32).reshape(8, 8)
        one = (ids, None, None, 8, 64, 0, 0, 0, 0)
        return _preprocess.sort([one], [(1, 8, 8, 64)], 1, 2, 2)

    batch = begun()
    assert batch.exceeds
    for cuts in (1, 2**63):
        with pytest.raises(ValueError, match="cuts of no tree"):
            batch.write(cuts)
    assert batch.deal() > 0
    with pytest.raises(ValueError, match="dealt already"):
        batch.deal()
    with pytest.raises(ValueError, match="cuts of no tree"):
        batch.write(2**63)
    assert len(batch.write(2**63 - 1)) == 1
    for again in (batch.deal, lambda: batch.write(0)):
        with pytest.raises(ValueError, match="already"):
            again()
    with pytest.raises(TypeError):
        _preprocess.BatchInSteps()
    with pytest.raises(ValueError, match="impossible"):
        _preprocess.sort([], [], 1, 2, 2**25)
