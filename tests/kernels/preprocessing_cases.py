"""Batches to preprocess, and what their buffers must be: jax-tpu-embedding's, to the byte."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import strategies as st

import kernels
from kernels.preprocessing import numpy_engine
from kernels.preprocessing.encoded import ProcessShape
from kernels.preprocessing.engine import ENGINE_VARIABLE, native_is_built
from kernels.preprocessing.inputs import FeatureInput
from tests.kernels import peer
from tests.kernels.support import Engine, feature, table

FIELDS = ("lhs_row_pointers", "lhs_embedding_ids", "lhs_sample_ids", "lhs_gains")

MESHES = [(1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (2, 4), (4, 1), (4, 4), (8, 1), (8, 2)]
"""Devices, SparseCores of each; jax-tpu-embedding wants a power of two in all."""


@pytest.fixture(params=["numpy", "native"], scope="module", autouse=True)
def preprocessing_engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs every test of a module that imports it with either engine."""
    if request.param == "native" and not native_is_built():
        pytest.skip("the C++ preprocessing was not built")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, ENGINE_VARIABLE, request.param)
        if request.param == "native":
            patch.setattr(numpy_engine, "encode", _refuse)
        yield request.param


def _refuse(*_: Any, **__: Any) -> None:
    raise AssertionError("the numpy engine must not do the work of the native one")


def ragged(rows: Sequence[Any], dtype: Any) -> np.ndarray:
    """An object array of rows."""
    value = np.empty(len(rows), dtype=object)
    for number, row in enumerate(rows):
        value[number] = np.asarray(row, dtype=dtype)
    return value


@dataclass
class Batch:
    """A batch that jax-tpu-embedding accepts."""

    engine: Engine
    ids: dict[str, Any]
    gains: dict[str, Any] | None

    def limit(self, ids: int, unique: int, buffer: int | None = None) -> None:
        """Give all stacks these limits."""
        for spec in self.engine.placed.values():
            spec.table_spec.stacked_table_spec = spec.table_spec.stacked_table_spec.replace(
                max_ids_per_partition=ids,
                max_unique_ids_per_partition=min(ids, unique),
                suggested_coo_buffer_size_per_device=buffer,
            )

    def encode(self, **options: Any) -> Any:
        """The batch and statistics, by emberay."""
        return self.engine.encode(self.ids, self.gains, **options)

    def assert_like_the_peer(self, **options: Any) -> int:
        """Encode by both, compare; the number of minibatches."""
        engine = self.engine
        theirs = peer.preprocess(
            engine.placed,
            self.ids,
            self.gains,
            engine.devices,
            engine.devices,
            engine.per_device,
            **options,
        )
        return assert_same_buffers(self.encode(**options), theirs, engine, **options)


@st.composite
def batches(draw: Any, meshes: Sequence[tuple[int, int]] = MESHES, most_samples: int = 4) -> Batch:
    """Batches with many duplicates, skewed ids, and samples without ids."""
    devices, per_device = draw(st.sampled_from(meshes))
    samples = devices * per_device * draw(st.integers(1, most_samples))
    combiner = draw(st.sampled_from(["sum", "mean", "sqrtn"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    skew = draw(st.sampled_from([1.0, 3.0]))
    tables = [
        table(f"t{n}", draw(st.integers(1, 200)), draw(st.integers(1, 12)), combiner=combiner)
        for n in range(draw(st.integers(1, 3)))
    ]
    specs, ids, gains = {}, {}, {}
    for n in range(draw(st.integers(1, 4))):
        of, name = draw(st.sampled_from(tables)), f"f{n}"

        def some(shape: Any, vocabulary: int = of.vocabulary_size) -> np.ndarray:
            return (vocabulary * rng.random(shape) ** skew).astype(np.int32)

        valency = draw(st.integers(0, 9))
        if draw(st.booleans()) and valency:
            specs[name] = feature(name, of, samples, valency)
            dtype = draw(st.sampled_from([np.int32, np.int64]))
            ids[name] = some((samples, valency)).astype(dtype)
            gains[name] = rng.uniform(0.1, 2, (samples, valency)).astype(np.float32)
        else:
            lengths = rng.integers(0, valency + 1, samples)
            specs[name] = feature(name, of, samples, None)
            ids[name] = ragged([some(k) for k in lengths], np.int32)
            gains[name] = ragged([rng.uniform(0.1, 2, k) for k in lengths], np.float32)
    engine = Engine(specs, devices, per_device, stack=draw(st.booleans()))
    return Batch(engine, ids, gains if draw(st.booleans()) else None)


def assert_same_buffers(
    mine: tuple[kernels.PreprocessedInput, kernels.SparseDenseMatmulInputStats],
    theirs: tuple[Any, ...],
    engine: Engine,
    *,
    enable_minibatching: bool = False,
    **_: Any,
) -> int:
    """Equal to the byte wherever jax-tpu-embedding initialises; the number of minibatches."""
    batch, stats = mine
    *arrays, count, their_stats = theirs
    assert batch.num_minibatches.tolist() == [count] * engine.devices
    for name in engine.plan.limits:
        by_field = dict(zip(FIELDS, (array[name] for array in arrays), strict=True))
        parts = _parts(engine, by_field[FIELDS[0]], count, enable_minibatching)
        for field, other in by_field.items():
            value = getattr(batch, field)[name]
            assert (value.dtype, value.shape) == (other.dtype, other.shape)
            rows = (len(parts), -1)
            for (pointers, entries), a, b in zip(
                parts, value.reshape(rows), other.reshape(rows), strict=True
            ):
                used = pointers if field == FIELDS[0] else entries
                np.testing.assert_array_equal(a[:used], b[:used], err_msg=f"{name} {field}")
        for ours, other in (
            (stats.max_ids_per_partition, their_stats.max_ids_per_partition),
            (stats.max_unique_ids_per_partition, their_stats.max_unique_ids_per_partition),
            (stats.required_buffer_size_per_sc, their_stats.required_buffer_sizes),
        ):
            np.testing.assert_array_equal(ours[name], other[name])
            assert ours[name].dtype == other[name].dtype
        assert stats.id_drop_counters[name] == their_stats.dropped_id_count[name]
    return count


def _parts(
    engine: Engine, pointers: np.ndarray, count: int, is_minibatched: bool
) -> list[tuple[int, int]]:
    """Of every separate part of the buffers, the pointers and the entries in use."""
    cores = engine.plan.topology.sparsecores
    width = max(cores, 8)
    bins = engine.devices * (1 if is_minibatched else engine.per_device)
    segments = count * engine.per_device if is_minibatched else 1
    last = pointers.reshape(bins, -1)[:, (segments - 1) * width + cores - 1]
    return [(segments * width, int(-(-end // 8) * 8)) for end in last]


def partition(
    batch: kernels.PreprocessedInput, name: str, engine: Engine, source: int, asked: int
) -> list[tuple[int, int, float]]:
    """(local row, sample, gain) of one partition of a batch without minibatching."""
    sources = engine.devices * engine.per_device
    pointers = batch.lhs_row_pointers[name].reshape(sources, -1)[source]
    start = 0 if asked == 0 else -(-pointers[asked - 1] // 8) * 8
    parts = [
        getattr(batch, field)[name].reshape(sources, -1)[source, start : pointers[asked]].tolist()
        for field in FIELDS[1:]
    ]
    return list(zip(*parts, strict=True))


def assert_same_batches(a: Any, b: Any) -> None:
    """Equal batches and statistics, unused entries included."""
    for one, other in zip(a, b, strict=True):
        leaves = (_leaves(one), _leaves(other))
        assert list(leaves[0]) == list(leaves[1])
        for name, value in leaves[0].items():
            np.testing.assert_array_equal(value, leaves[1][name], err_msg=name)


def _leaves(tree: Any) -> Mapping[str, Any]:
    return {
        jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def one_feature(combiner: str = "mean", samples: int = 4, valency: int | None = 3) -> Engine:
    """One feature of a table of 30 rows, on two SparseCores."""
    items = table("items", 30, combiner=combiner)
    return Engine({"f": feature("f", items, samples, valency)}, 1, 2)


def offsets_input(offsets: Any, ids: int = 6, gains: int | None = None) -> FeatureInput:
    """Offsets as they lie in memory: Arrow itself does not check them."""
    engine = one_feature(samples=4, valency=None)
    return FeatureInput(
        engine.placed["f"],
        len(offsets) - 1,
        np.arange(ids, dtype=np.int32),
        None if gains is None else np.ones(gains, np.float32),
        np.array(offsets),
    )


def encode_directly(given: FeatureInput, engine: str) -> Any:
    """The input of `one_feature` by a named engine."""
    module = import_module(f"kernels.preprocessing.{engine}_engine")
    return module.encode(
        {"items": [given]}, ProcessShape(1, 1, 2), allow_id_dropping=False, minibatching=None
    )
