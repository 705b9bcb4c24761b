"""What is wrong with the values of an input, in words.

Every error names the feature, the sample, the value and the fix. Engines look for trouble in this
order, and name the first: feature by feature in the order of the specs; within one, its form
(`offsets_lie`, `samples_do_not_ascend`, `row_is_no_list`), ids (`id_out_of_range`), gains
(`gains_missing`, `gain_not_finite`), their sums (`gains_cancel`); and then the first sample.

What is padding: the id -1, in every form of input; it is left out with its gain, whatever that is.
jax-tpu-embedding knows no padding and turns negative ids into rows that do not exist; so -1 has no
meaning there that would be lost here, and other negative ids are refused.
"""

from __future__ import annotations

from typing import Any

from kernels.errors import Overflow, SpecError
from kernels.specs import FeatureSpec, StackedTableSpec

__all__ = [
    "PADDING_ID",
    "gain_not_finite",
    "gains_cancel",
    "gains_missing",
    "id_out_of_range",
    "offsets_lie",
    "overflows",
    "row_is_no_list",
    "sample_outside",
    "samples_do_not_ascend",
    "too_many_ids",
    "wrong_type",
]

PADDING_ID: int = -1
"""The id of a place that holds none."""


def id_out_of_range(spec: FeatureSpec, sample: int, value: int) -> SpecError:
    """An id at or beyond the vocabulary size, or negative and not padding."""
    table = spec.table_spec
    return SpecError(
        f"feature '{spec.name}': sample {sample} holds id {value}, but table '{table.name}' has "
        f"vocabulary_size {table.vocabulary_size}; ids must be 0 to {table.vocabulary_size - 1}: "
        f"enlarge the table, or hash or clip the ids (only {PADDING_ID} is padding)"
    )


def gain_not_finite(spec: FeatureSpec, sample: int, value: float) -> SpecError:
    """A gain that is NaN or infinite."""
    return SpecError(
        f"feature '{spec.name}': sample {sample} holds the gain {value}; gains must be finite "
        "float32: leave the id out, or give it a gain of 0"
    )


def gains_cancel(spec: FeatureSpec, sample: int, total: float) -> SpecError:
    """Gains whose sum (or sum of squares), which the combiner divides by, is 0 or infinite."""
    what = "sum" if spec.table_spec.combiner == "mean" else "squares sum"
    return SpecError(
        f"feature '{spec.name}': the gains of sample {sample} {what} to {total:g}, so the combiner "
        f"'{spec.table_spec.combiner}' cannot divide by them; give gains of one sign and of "
        "moderate size, or use combiner 'sum'"
    )


def gains_missing(spec: FeatureSpec, sample: int, ids: int, gains: int) -> SpecError:
    """A row whose gains are more or fewer than its ids."""
    return SpecError(
        f"feature '{spec.name}': sample {sample} holds {ids} ids but {gains} gains; "
        "give one gain per id"
    )


def offsets_lie(spec: FeatureSpec, sample: int, start: int, end: int, values: int) -> SpecError:
    """Offsets that descend, or leave the values."""
    return SpecError(
        f"feature '{spec.name}': offsets say that sample {sample} holds the ids {start} to {end} "
        f"of {values}; offsets must ascend from at least 0 to at most {values}: build the lists "
        "anew"
    )


def sample_outside(spec: FeatureSpec, position: int, sample: int, samples: int) -> SpecError:
    """A sparse tensor's index that names a sample which is not there."""
    return SpecError(
        f"feature '{spec.name}': index {position} names sample {sample}, but there are {samples} "
        f"samples on this process; samples must be 0 to {samples - 1}"
    )


def samples_do_not_ascend(spec: FeatureSpec, position: int, before: int, sample: int) -> SpecError:
    """A sparse tensor's indices that are not sorted by sample."""
    return SpecError(
        f"feature '{spec.name}': index {position} names sample {sample} after sample {before}; "
        "sort indices and values by sample"
    )


def row_is_no_list(spec: FeatureSpec, sample: int, what: str, row: Any) -> SpecError:
    """A row that is not a list of numbers."""
    return SpecError(
        f"feature '{spec.name}': the {what} of sample {sample} are {row!r:.60}; "
        "give a one-dimensional array or a list of numbers"
    )


def wrong_type(spec: FeatureSpec, sample: int, what: str, dtype: Any, wanted: str) -> SpecError:
    """A row of another type."""
    return SpecError(
        f"feature '{spec.name}': the {what} of sample {sample} are {dtype}; give {wanted}"
    )


def too_many_ids(spec: FeatureSpec, count: int) -> SpecError:
    """More ids than 32-bit positions can tell apart."""
    return SpecError(
        f"feature '{spec.name}': {count} ids on this process, but positions must fit int32 "
        f"({2**31 - 1}); give smaller batches, or use more processes"
    )


def overflows(
    stack: StackedTableSpec, ids: int, unique_ids: int, entries: int = 0, buffer: int = 0
) -> list[Overflow]:
    """The limits of a stack that a batch goes beyond.

    Args:
        stack: Gives the limits of a partition.
        ids: Most entries of a partition (of a bucket, if there are minibatches).
        unique_ids: Most different rows of one.
        entries: Entries a device's buffer would need.
        buffer: Entries it has.
    """
    limits = (
        ("max_ids_per_partition", stack.max_ids_per_partition, ids),
        ("max_unique_ids_per_partition", stack.max_unique_ids_per_partition, unique_ids),
        ("buffer_size_per_device", buffer, entries),
    )
    return [Overflow(stack.stack_name, *limit) for limit in limits if limit[2] > limit[1]]
