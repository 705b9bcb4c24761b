"""Step one of preprocessing: a feature's input as one flat list of ids, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from kernels.errors import SpecError
from kernels.specs import FeatureSpec

__all__ = ["FlatFeature", "flatten_feature"]


@dataclass(frozen=True)
class FlatFeature:
    """One feature of one batch on this process.

    Attributes:
        spec: The feature.
        ids: ``[n]`` int32 or int64, sample by sample; negative ids are padding.
        lengths: ``[samples]`` ids of every sample, padding included, or one number for all.
        samples: Samples on this process.
        has_padding: Whether any id is negative.
        gains: ``[n]`` float32 or None for gains of 1; the combiner is applied already.
        gain_of_sample: ``[samples]`` float32 or None: when no gains were given, what every id of
            a sample counts under the combiner; None when that is 1.
    """

    spec: FeatureSpec
    ids: np.ndarray
    lengths: np.ndarray | int
    samples: int
    has_padding: bool
    gains: np.ndarray | None
    gain_of_sample: np.ndarray | None

    def sample_of_id(self) -> np.ndarray:
        """``[n]``: the sample of every id."""
        return np.repeat(np.arange(self.samples), self.lengths)


def flatten_feature(spec: FeatureSpec, ids: Any, gains: Any | None) -> FlatFeature:
    """Check a feature's input and flatten it.

    Args:
        spec: The feature; its table gives vocabulary and combiner.
        ids: ``[samples, valency]`` integers with negative ones as padding, or a ragged sequence
            (list or object array) of one-dimensional integer arrays, one per sample.
        gains: None, or numbers in the shape of ``ids``.

    Raises:
        SpecError: Naming feature, sample and value, if an id is not below the vocabulary size,
            or shapes or types are wrong.
    """
    flat, lengths, samples = _flat(spec, ids, "ids")
    if flat.dtype.kind not in "iu":
        if flat.size:
            raise SpecError(f"feature '{spec.name}': ids are {flat.dtype}; give int32 or int64")
        flat = flat.astype(np.int32)
    if flat.dtype not in (np.int32, np.int64):
        flat = flat.astype(np.int64)
    feature = FlatFeature(
        spec=spec,
        ids=flat,
        lengths=lengths,
        samples=samples,
        has_padding=bool(flat.size) and int(flat.min()) < 0,
        gains=None,
        gain_of_sample=None,
    )
    _check_range(feature)
    combiner = spec.table_spec.combiner
    if gains is not None:
        return _with_gains(feature, gains, combiner)
    if combiner == "sum":
        return feature
    # Without gains, mean divides by the number of ids, sqrtn by its root.
    count = np.maximum(_valid_per_sample(feature), 1).astype(np.float32)
    divisor = np.sqrt(count) if combiner == "sqrtn" else count
    return _replace(feature, gain_of_sample=np.float32(1) / divisor)


def _replace(feature: FlatFeature, **changes: Any) -> FlatFeature:
    return FlatFeature(**(feature.__dict__ | changes))


def _flat(spec: FeatureSpec, value: Any, what: str) -> tuple[np.ndarray, np.ndarray | int, int]:
    """Values, lengths (one number if all are equal) and number of samples."""
    if not isinstance(value, list | tuple):
        value = np.asarray(value)
        if value.dtype != object:
            if value.ndim == 1:
                value = value[:, None]
            if value.ndim != 2:
                raise SpecError(
                    f"feature '{spec.name}': {what} have shape {value.shape}; give "
                    "[samples, valency], or flatten a sequence into the samples"
                )
            return np.ascontiguousarray(value).reshape(-1), value.shape[1], value.shape[0]
    rows = [np.asarray(row) for row in value]
    lengths = np.fromiter((row.size for row in rows), dtype=np.int64, count=len(rows))
    kept = [row.reshape(-1) for row in rows if row.size]
    flat = np.concatenate(kept) if kept else np.zeros(0, dtype=np.int32)
    return flat, lengths, len(rows)


def _check_range(feature: FlatFeature) -> None:
    ids, vocabulary = feature.ids, feature.spec.table_spec.vocabulary_size
    if not ids.size or int(ids.max()) < vocabulary:
        return
    position = int(np.argmax(ids >= vocabulary))
    sample = int(feature.sample_of_id()[position])
    raise SpecError(
        f"feature '{feature.spec.name}': sample {sample} holds id {int(ids[position])}, but table "
        f"'{feature.spec.table_spec.name}' has vocabulary_size {vocabulary}; ids must be below it: "
        "enlarge the table, or hash or clip the ids (negative ids are padding)"
    )


def _valid_per_sample(feature: FlatFeature) -> np.ndarray:
    """``[samples]``: ids that are not padding."""
    if not feature.has_padding:
        return np.broadcast_to(np.asarray(feature.lengths), (feature.samples,))
    return np.bincount(feature.sample_of_id()[feature.ids >= 0], minlength=feature.samples)


def _with_gains(feature: FlatFeature, gains: Any, combiner: str) -> FlatFeature:
    name = feature.spec.name
    flat, lengths, _ = _flat(feature.spec, gains, "gains")
    if flat.size != feature.ids.size or not np.array_equal(lengths, feature.lengths):
        raise SpecError(
            f"feature '{name}': its gains have another shape than its ids; give one gain per id"
        )
    flat = flat.astype(np.float32, copy=False)
    if combiner == "sum":
        return _replace(feature, gains=flat)
    counted = np.where(feature.ids < 0, np.float32(0), flat) if feature.has_padding else flat
    total = _sums(counted, feature, squares=combiner == "sqrtn")
    divisor = np.sqrt(total) if combiner == "sqrtn" else total
    if not divisor.all():
        divisor = _without_zeros(feature, counted, divisor)
    return _replace(feature, gains=flat / np.repeat(divisor, feature.lengths))


def _sums(values: np.ndarray, feature: FlatFeature, *, squares: bool) -> np.ndarray:
    """``[samples]`` float32: sums of values (or squares), added from left to right.

    The order, and rounding once per step (as a fused multiply-add does), are those of
    jax-tpu-embedding's own preprocessing: results agree to the last bit.
    """
    total = np.zeros(feature.samples, dtype=np.float32)
    lengths = np.broadcast_to(np.asarray(feature.lengths), (feature.samples,))
    first = np.cumsum(lengths) - lengths
    for position in range(int(lengths.max()) if lengths.size else 0):
        here = np.flatnonzero(lengths > position)
        value = values[first[here] + position].astype(np.float64)
        total[here] = total[here].astype(np.float64) + (value * value if squares else value)
    return total


def _without_zeros(feature: FlatFeature, gains: np.ndarray, divisor: np.ndarray) -> np.ndarray:
    """Ones where a sample's gains are all 0; refuses gains that cancel."""
    zero = divisor == 0
    cancelled = zero[feature.sample_of_id()] & (gains != 0)
    if cancelled.any():
        position = int(np.argmax(cancelled))
        raise SpecError(
            f"feature '{feature.spec.name}': the gains of sample "
            f"{int(feature.sample_of_id()[position])} sum to 0, so their mean is not defined; "
            "give gains of one sign, or use combiner 'sum'"
        )
    return np.where(zero, np.float32(1), divisor)
