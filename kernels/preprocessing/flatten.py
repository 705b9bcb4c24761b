"""Step two of preprocessing in numpy: a feature's input as one flat list of ids, checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kernels.preprocessing import trouble
from kernels.preprocessing.inputs import FeatureInput
from kernels.preprocessing.trouble import PADDING_ID
from kernels.specs import FeatureSpec

__all__ = ["FlatFeature", "flat_values", "flatten_feature"]

_MOST_IDS = 2**31 - 1


@dataclass(frozen=True)
class FlatFeature:
    """One feature of one batch on this process.

    Attributes:
        spec: The feature.
        ids: ``[n]`` int32 or int64, sample by sample; -1 is padding.
        lengths: ``[samples]`` ids of every sample, padding included, or one number for all.
        samples: Samples on this process.
        has_padding: Whether any id is padding.
        gains: ``[n]`` float32 or None for gains of 1; the combiner is applied already.
        gain_of_sample: ``[samples]`` float32 or None: when no gains were given, what every id of
            a sample counts under the combiner; None when that is 1.
    """

    spec: FeatureSpec
    ids: np.ndarray
    lengths: np.ndarray | int
    samples: int
    has_padding: bool = False
    gains: np.ndarray | None = None
    gain_of_sample: np.ndarray | None = None

    def sample_of_id(self) -> np.ndarray:
        """``[n]``: the sample of every id."""
        return np.repeat(np.arange(self.samples), self.lengths)

    def sample_at(self, position: int) -> int:
        """The sample of one id."""
        if isinstance(self.lengths, int):
            return position // self.lengths
        return int(np.searchsorted(np.cumsum(self.lengths), position, side="right"))

    def gain_of_id(self) -> np.ndarray:
        """``[n]`` float32: what every id counts."""
        if self.gains is not None:
            return self.gains
        if self.gain_of_sample is not None:
            return np.repeat(self.gain_of_sample, self.lengths)
        return np.ones(self.ids.size, dtype=np.float32)


def flatten_feature(given: FeatureInput) -> FlatFeature:
    """Check the values of a feature's input and flatten it.

    Raises:
        SpecError: Naming feature, sample and value; `kernels.preprocessing.trouble` lists what is
            looked for.
    """
    feature, gains = flat_values(given)
    if feature.ids.size > _MOST_IDS:
        raise trouble.too_many_ids(feature.spec, feature.ids.size)
    feature = _with_checked_ids(feature)
    combiner = feature.spec.table_spec.combiner
    if gains is not None:
        return _with_gains(feature, gains, combiner)
    if combiner == "sum":
        return feature
    # Without gains, mean divides by the number of ids, sqrtn by its root.
    count = np.maximum(_valid_per_sample(feature), 1).astype(np.float32)
    divisor = np.sqrt(count) if combiner == "sqrtn" else count
    return dataclasses.replace(feature, gain_of_sample=np.float32(1) / divisor)


def flat_values(given: FeatureInput) -> tuple[FlatFeature, np.ndarray | None]:
    """The feature, ids not checked yet, and its gains."""
    spec, ids, gains, samples = given.spec, given.ids, given.gains, given.samples
    if given.offsets is not None:
        offsets = given.offsets.astype(np.int64, copy=False)
        _check_offsets(spec, offsets, len(ids) if gains is None else min(len(ids), len(gains)))
        inside = slice(int(offsets[0]), int(offsets[-1]))
        feature = FlatFeature(spec, np.asarray(ids[inside]), np.diff(offsets), samples)
        return feature, None if gains is None else np.asarray(gains[inside])
    if given.sample_of_id is not None:
        _check_sample_of_id(spec, given.sample_of_id, samples)
        lengths = np.bincount(given.sample_of_id, minlength=samples)
        feature = FlatFeature(spec, np.asarray(ids), lengths, samples)
        return feature, None if gains is None else np.asarray(gains)
    if isinstance(ids, np.ndarray) and ids.dtype != object:
        feature = FlatFeature(spec, np.ascontiguousarray(ids).reshape(-1), ids.shape[1], samples)
        return feature, None if gains is None else np.ascontiguousarray(gains).reshape(-1)
    flat, lengths = _flat_rows(spec, ids, "ids", _integers)
    feature = FlatFeature(spec, flat, lengths, samples)
    if gains is None:
        return feature, None
    flat, gain_lengths = _flat_rows(spec, gains, "gains", _floats)
    differ = lengths != gain_lengths
    if differ.any():
        sample = int(np.argmax(differ))
        counts = int(lengths[sample]), int(gain_lengths[sample])
        raise trouble.gains_missing(spec, sample, *counts)
    return feature, flat


def _check_offsets(spec: FeatureSpec, offsets: np.ndarray, values: int) -> None:
    start, end = offsets[:-1], offsets[1:]
    lies = (start > end) | (start < 0) | (end > values)
    if lies.any():
        sample = int(np.argmax(lies))
        raise trouble.offsets_lie(spec, sample, int(start[sample]), int(end[sample]), values)
    if not lies.size and offsets.size and not 0 <= offsets[0] <= values:
        raise trouble.offsets_lie(spec, 0, int(offsets[0]), int(offsets[0]), values)


def _check_sample_of_id(spec: FeatureSpec, sample_of_id: np.ndarray, samples: int) -> None:
    outside = (sample_of_id < 0) | (sample_of_id >= samples)
    if outside.any():
        position = int(np.argmax(outside))
        raise trouble.sample_outside(spec, position, int(sample_of_id[position]), samples)
    descends = sample_of_id[1:] < sample_of_id[:-1]
    if descends.any():
        position = int(np.argmax(descends)) + 1
        before, sample = (int(sample_of_id[position + step]) for step in (-1, 0))
        raise trouble.samples_do_not_ascend(spec, position, before, sample)


def _flat_rows(
    spec: FeatureSpec,
    rows: Sequence[Any] | np.ndarray,
    what: str,
    converted: Callable[[FeatureSpec, int, np.ndarray], np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Rows behind one another, and their lengths."""
    arrays: list[np.ndarray] = []
    lengths = np.zeros(len(rows), dtype=np.int64)
    for sample, row in enumerate(rows):
        try:
            array = np.asarray(row)
            if array.dtype == object:
                array = np.asarray(array.tolist())
        except (TypeError, ValueError) as error:
            raise trouble.row_is_no_list(spec, sample, what, row) from error
        if array.ndim != 1:
            raise trouble.row_is_no_list(spec, sample, what, row)
        if array.size:
            arrays.append(converted(spec, sample, array))
            lengths[sample] = array.size
    if not arrays:
        arrays.append(converted(spec, 0, np.zeros(0, dtype=np.int32)))
    return np.concatenate(arrays), lengths


def _integers(spec: FeatureSpec, sample: int, row: np.ndarray) -> np.ndarray:
    if row.dtype in (np.int32, np.int64):
        return row
    if row.dtype.kind not in "iu":
        raise trouble.wrong_type(spec, sample, "ids", row.dtype, "int32 or int64")
    if row.dtype == np.uint64 and row.max() > np.iinfo(np.int64).max:
        raise trouble.id_out_of_range(spec, sample, int(row.max()))
    return row.astype(np.int64)


def _floats(spec: FeatureSpec, sample: int, row: np.ndarray) -> np.ndarray:
    if row.dtype == np.float32:
        return row
    if row.dtype.kind not in "iufbV":  # bfloat16 and its like are of kind V
        raise trouble.wrong_type(spec, sample, "gains", row.dtype, "float32")
    with np.errstate(over="ignore"):  # infinity is refused later, by sample
        return row.astype(np.float32)


def _with_checked_ids(feature: FlatFeature) -> FlatFeature:
    ids, vocabulary = feature.ids, feature.spec.table_spec.vocabulary_size
    if not ids.size:
        return feature
    least = int(ids.min())
    if least < PADDING_ID or int(ids.max()) >= vocabulary:
        position = int(np.argmax((ids < PADDING_ID) | (ids >= vocabulary)))
        sample = feature.sample_at(position)
        raise trouble.id_out_of_range(feature.spec, sample, int(ids[position]))
    return dataclasses.replace(feature, has_padding=True) if least < 0 else feature


def _valid_per_sample(feature: FlatFeature) -> np.ndarray:
    """``[samples]``: ids that are not padding."""
    if not feature.has_padding:
        return np.broadcast_to(np.asarray(feature.lengths), (feature.samples,))
    return np.bincount(feature.sample_of_id()[feature.ids >= 0], minlength=feature.samples)


def _with_gains(feature: FlatFeature, gains: np.ndarray, combiner: str) -> FlatFeature:
    if feature.has_padding:
        gains = np.where(feature.ids < 0, np.float32(0), gains)
    with np.errstate(over="ignore", invalid="ignore"):
        total = gains.sum()
    if not np.isfinite(total):
        finite = np.isfinite(gains)
        if not finite.all():
            position = int(np.argmin(finite))
            sample = feature.sample_at(position)
            raise trouble.gain_not_finite(feature.spec, sample, float(gains[position]))
    if combiner == "sum":
        return dataclasses.replace(feature, gains=gains)
    sums = _sums(gains, feature, squares=combiner == "sqrtn")
    sums = _divisible(feature, gains, sums)
    divisor = np.sqrt(sums) if combiner == "sqrtn" else sums
    return dataclasses.replace(feature, gains=gains / np.repeat(divisor, feature.lengths))


def _sums(values: np.ndarray, feature: FlatFeature, *, squares: bool) -> np.ndarray:
    """``[samples]`` float32: sums of values (or squares), added from left to right.

    The order, and rounding once per step (as a fused multiply-add does), are those of
    jax-tpu-embedding's own preprocessing: results agree to the last bit.
    """
    total = np.zeros(feature.samples, dtype=np.float32)
    lengths = np.broadcast_to(np.asarray(feature.lengths), (feature.samples,))
    first = np.cumsum(lengths) - lengths
    by_length = np.argsort(-lengths, kind="stable")  # the longest first: each step takes a prefix
    longer = np.cumsum(np.bincount(lengths, minlength=1)[::-1])[::-1]
    with np.errstate(over="ignore"):
        for position in range(longer.size - 1):
            here = by_length[: longer[position + 1]]
            value = values[first[here] + position].astype(np.float64)
            total[here] = total[here].astype(np.float64) + (value * value if squares else value)
    return total


def _divisible(feature: FlatFeature, gains: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """The sums, with ones where all gains of a sample are 0; refuses others that are 0."""
    if sums.all() and np.isfinite(sums).all():
        return sums
    zero = sums == 0
    bad = ~np.isfinite(sums)
    bad |= zero & (np.bincount(feature.sample_of_id()[gains != 0], minlength=sums.size) > 0)
    if bad.any():
        sample = int(np.argmax(bad))
        raise trouble.gains_cancel(feature.spec, sample, float(sums[sample]))
    return np.where(zero, np.float32(1), sums)
