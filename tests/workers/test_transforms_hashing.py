"""Hashes: fixed values, and a plain-Python reading of their definition."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.data.transforms import hash_values, hashing
from workers.errors import DataError

MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15


def mix(value: int) -> int:
    value &= MASK
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & MASK
    return value ^ (value >> 31)


def plain_hash(value: int | str | bytes, seed: int = 0) -> int:
    if isinstance(value, int):
        return mix(value + seed * GOLDEN)
    data = value.encode() if isinstance(value, str) else value
    words = [int.from_bytes(data[i : i + 8], "little") for i in range(0, len(data), 8)] or [0]
    key = mix(seed + GOLDEN)
    total = sum(mix((word ^ key) + (k + 1) * GOLDEN) for k, word in enumerate(words))
    return mix(len(data) * GOLDEN + total)


def test_hashes_are_fixed_for_ever() -> None:
    strings = pa.array(["", "UA", "ünïcode", "a longer string of several words"])
    assert hash_values(strings).tolist() == [
        13013912499580732898,
        7218501146254750976,
        914707245115771950,
        7807195558196263067,
    ]
    assert hash_values(pa.array([0, 1, -1])).tolist() == [
        0,
        6238072747940578789,
        13029008266876403067,
    ]


BYTES = st.one_of(
    st.binary(max_size=20), st.binary(min_size=60, max_size=70), st.sampled_from([b"", b"\0" * 8])
)
SEEDS = st.integers(0, MASK)


@given(st.lists(BYTES, max_size=20), SEEDS, st.sampled_from([pa.binary(), pa.large_binary()]))
def test_strings_hash_as_defined(values: list[bytes], seed: int, kind: pa.DataType) -> None:
    assert hash_values(pa.array(values, kind), seed).tolist() == [
        plain_hash(value, seed) for value in values
    ]


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20), SEEDS)
def test_integers_hash_as_defined(values: list[int], seed: int) -> None:
    assert hash_values(pa.array(values, pa.int64()), seed).tolist() == [
        plain_hash(value, seed) for value in values
    ]


@given(st.lists(BYTES, min_size=1, max_size=30), st.sampled_from([1, 3]), st.integers(1, 64))
@settings(max_examples=50)
def test_blocks_and_pieces_change_nothing(values: list[bytes], block: int, piece: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hashing, "_BLOCK", block)
        patch.setattr(hashing, "_BLOCK_BYTES", 50)
        patch.setattr(hashing, "_PIECE", piece)
        found = hash_values(pa.array(values))
    assert found.tolist() == [plain_hash(value) for value in values]


def test_strings_longer_than_a_piece_and_a_block() -> None:
    values = [b"x" * 700_001, b"", b"y" * 1_500_000, b"z"]
    assert hash_values(pa.array(values)).tolist() == [plain_hash(value) for value in values]


@given(st.lists(st.text(max_size=12), max_size=30), st.integers(0, 5), st.integers(0, 30))
def test_strings_hash_alike_in_every_arrow_form(values: list[str], first: int, length: int) -> None:
    array = pa.array(values, pa.string())
    expected = hash_values(array)
    for kind in (pa.large_string(), pa.string_view(), pa.binary(), pa.binary_view()):
        assert np.array_equal(hash_values(array.cast(kind)), expected), kind
    encoded = array.dictionary_encode()
    assert np.array_equal(hash_values(encoded), expected)
    assert np.array_equal(hash_values(pa.chunked_array([array, array])), np.tile(expected, 2))
    assert np.array_equal(hash_values(pa.chunked_array([encoded, encoded])), np.tile(expected, 2))
    for whole in (array, array.cast(pa.large_string()), encoded, array.cast(pa.string_view())):
        part = whole.slice(first, length)
        assert np.array_equal(hash_values(part), expected[first : first + length])
    assert hash_values(pa.chunked_array([], pa.string())).shape == (0,)


@given(st.lists(st.integers(0, 127), max_size=30))
def test_integers_hash_alike_in_every_width(values: list[int]) -> None:
    expected = hash_values(pa.array(values, pa.int64()))
    for kind in (pa.int8(), pa.uint16(), pa.int32(), pa.uint64()):
        assert np.array_equal(hash_values(pa.array(values, kind)), expected)
    assert np.array_equal(hash_values(pa.array(values, pa.int64()).dictionary_encode()), expected)


def test_nulls_hash_as_nothing() -> None:
    for values, nothing in ((pa.array(["a", None]), ""), (pa.array([b"a", None]), b"")):
        assert hash_values(values)[1] == plain_hash(nothing)
        assert hash_values(values.dictionary_encode())[1] == plain_hash(nothing)
    assert hash_values(pa.array([1, None]))[1] == plain_hash(0)
    hidden = pa.Array.from_buffers(  # a null that covers bytes
        pa.string(), 2, [pa.py_buffer(b"\x02"), *pa.array(["no", "a"]).buffers()[1:]]
    )
    assert hash_values(hidden).tolist() == [plain_hash(""), plain_hash("a")]


def test_what_cannot_be_hashed_is_refused() -> None:
    with pytest.raises(DataError, match="type double cannot be hashed"):
        hash_values(pa.array([1.0]))


@pytest.mark.parametrize(
    "values",
    [
        [f"item/{number}" for number in range(20_000)],
        [f"{number:06d}" for number in range(20_000)],
        ["x" * number for number in range(2000)],
        ["\0" * number for number in range(200)],
        [f"{'a' * (8 * k)}{'b' * 8}{'a' * (8 * (9 - k))}" for k in range(10)],
        list(range(20_000)),
        [number << 44 for number in range(20_000)],
    ],
    ids=["paths", "digits", "lengths", "zeros", "moved word", "integers", "high bits"],
)
def test_alike_values_spread_evenly(values: list[str] | list[int]) -> None:
    """No two collide; any bits of the hashes fill 64 buckets about evenly; seeds are unrelated."""
    for seed in (0, 1, 12345):
        hashes = hash_values(pa.array(values), seed)
        assert np.unique(hashes).size == len(values)
        expected = len(values) / 64
        if expected < 30:
            continue
        for shift in (0, 29, 58):
            counts = np.bincount((hashes >> np.uint64(shift)) % np.uint64(64), minlength=64)
            chi_square = float(((counts - expected) ** 2 / expected).sum())
            assert chi_square < 130  # of 63 degrees of freedom: exceeded once in a million
    assert not np.intersect1d(hash_values(pa.array(values)), hash_values(pa.array(values), 1)).size


def test_one_bit_of_input_changes_half_of_the_hash() -> None:
    rng = np.random.default_rng(0)
    for length in (3, 8, 21):
        flips = []
        for _ in range(200):
            data = rng.integers(0, 256, length, np.uint8)
            changed = data.copy()
            changed[rng.integers(length)] ^= 1 << rng.integers(8)
            one, other = hash_values(pa.array([data.tobytes(), changed.tobytes()])).tolist()
            flips.append((one ^ other).bit_count())
        assert 30 < np.mean(flips) < 34
