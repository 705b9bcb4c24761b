"""The two engines held against each other: the same bytes, or the same words; fuzzing, in small."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from kernels.preprocessing import engine as engines
from tests.kernels.preprocessing_cases import (
    assert_same_batches,
    batches,
    encode_directly,
    offsets_input,
    one_feature,
    ragged,
)

ANY = st.integers(-(2**63), 2**63 - 1)
ANY_IDS = st.one_of(st.integers(-3, 33), ANY)
ENGINES = ("numpy", "native")

pytestmark = pytest.mark.skipif(
    not engines.native_is_built(), reason="the C++ preprocessing was not built"
)


@given(batches(meshes=[(1, 1), (1, 3), (3, 1), (2, 4)]), st.integers(1, 30), st.booleans())
@settings(max_examples=80, deadline=None)
def test_engines_agree_on_every_byte(batch, most, minibatched):
    """Unused entries and pointers included, which jax-tpu-embedding leaves uninitialised."""
    batch.limit(most, most)
    results = []
    for name in ENGINES:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(engines.ENGINE_VARIABLE, name)
            options = {"allow_id_dropping": True, "enable_minibatching": minibatched}
            results.append(batch.encode(**options))
    for other in results[1:]:
        assert_same_batches(results[0], other)


@given(st.lists(st.one_of(st.integers(-3, 9), ANY), min_size=5, max_size=5))
@settings(max_examples=150, deadline=None)
def test_any_offsets_are_used_or_refused(offsets):
    honest = sorted(offsets) == offsets and offsets[0] >= 0 and offsets[-1] <= 6
    messages = []
    for engine in ENGINES:
        try:
            encode_directly(offsets_input(offsets), engine)
            messages.append("")
        except kernels.SpecError as error:
            messages.append(str(error))
    assert len(set(messages)) == 1
    assert (messages[0] == "") == honest


@given(st.lists(st.lists(ANY_IDS, max_size=4), min_size=4, max_size=4), st.data())
@settings(max_examples=150, deadline=None)
def test_any_rows_are_encoded_or_refused_alike(rows, data):
    """Whatever ids and gains there are, both engines say the same; fuzzing, in small."""
    floats = st.floats(width=32)
    gains = [data.draw(st.lists(floats, min_size=len(r), max_size=len(r))) for r in rows]
    given_ids = data.draw(st.sampled_from(["rows", "arrow"]))
    ids: Any = ragged(rows, np.int64)
    weights: Any = ragged(gains, np.float32)
    if given_ids == "arrow":
        ids = pa.array(rows, pa.list_(pa.int64()))
        weights = pa.array(gains, pa.list_(pa.float32()))
    combiner = data.draw(st.sampled_from(["sum", "mean", "sqrtn"]))
    engine = one_feature(combiner, valency=4)
    outcomes = []
    for name in ENGINES:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(engines.ENGINE_VARIABLE, name)
            try:
                batch, _ = engine.encode({"f": ids}, {"f": weights})
                outcomes.append(batch.lhs_embedding_ids["items"].tobytes())
            except kernels.SpecError as error:
                outcomes.append(str(error))
    assert len(set(outcomes)) == 1
    fine = all(-1 <= i < 30 for row in rows for i in row)
    assert fine or "holds id" in outcomes[0]
