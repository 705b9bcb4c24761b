"""Step one of preprocessing: one feature's input as it lies in memory, nothing copied.

    what the user gives                       what a FeatureInput holds
    dense array [samples, valency]            ids [samples, valency]
    Arrow FixedSizeList                       ids [samples, list_size], Arrow's own memory
    Arrow List, LargeList                     ids [n], offsets [samples + 1], Arrow's own memory
    Ragged                                    ids [n], offsets [samples + 1], its own memory
    list, tuple or object array of rows       ids: that sequence of rows
    sparse tensor (COO)                       ids [n], sample_of_id [n]

Types, dimensions and numbers of samples are checked here; values are checked by the engines, which
read them anyway. Arrow arrays are known by their attributes, so that pyarrow need not be there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from kernels.errors import SpecError
from kernels.ragged import Ragged
from kernels.specs import FeatureSpec, Nested

__all__ = ["FeatureInput", "align", "gather_inputs", "gather_sparse_inputs"]

_IDS = (np.dtype(np.int32), np.dtype(np.int64))


class FeatureInput(NamedTuple):
    """One feature of one batch on this process, where the user left it.

    ``ids`` has one of four forms, told apart by the other fields:

    - dense: an array ``[samples, valency]`` of int32 or int64;
    - values and offsets (``offsets`` is given): an array ``[n]``; sample ``k`` holds
      ``ids[offsets[k]:offsets[k + 1]]``. The first offset may be above 0;
    - COO (``sample_of_id`` is given): an array ``[n]``;
    - rows: a sequence of one integer array (or list of integers) per sample.

    The id -1 is padding in every form.
    """

    spec: FeatureSpec
    samples: int
    """Samples of this process."""
    ids: np.ndarray | Sequence[Any]
    gains: np.ndarray | Sequence[Any] | None = None
    """In the form of ``ids``, gain ``k`` belonging to id ``k``; arrays are float32. None counts
    every id as 1."""
    offsets: np.ndarray | None = None
    """``[samples + 1]`` int32 or int64."""
    sample_of_id: np.ndarray | None = None
    """``[n]`` int32 or int64, ascending."""

    @property
    def is_rows(self) -> bool:
        """Whether ids are a sequence of rows."""
        if self.offsets is not None or self.sample_of_id is not None:
            return False
        return not isinstance(self.ids, np.ndarray) or self.ids.dtype == object


def gather_inputs(
    features: Nested[Any], weights: Nested[Any] | None, specs: Nested[FeatureSpec]
) -> list[FeatureInput]:
    """The input of every feature, in the order of the specs' leaves.

    Args:
        features: In the structure of ``specs``: dense, Arrow or ragged ids.
        weights: None, or gains in the same structure and form.
        specs: Placed features.

    Raises:
        SpecError: If structures, forms, types or shapes cannot be meant.
    """
    leaves, columns = align(specs, features=features, features_weights=weights)
    return [_gather(spec, ids, gains) for spec, ids, gains in zip(leaves, *columns, strict=True)]


def gather_sparse_inputs(
    indices: Nested[Any], values: Nested[Any], dense_shapes: Nested[Any], specs: Nested[FeatureSpec]
) -> list[FeatureInput]:
    """The input of every feature that is given as a sparse tensor.

    Args:
        indices: In the structure of ``specs``: ``[n, 2]`` int32 or int64, (sample, position), with
            samples ascending.
        values: Likewise: ``[n]`` ids.
        dense_shapes: Likewise: ``[2]``, (samples, valency).
        specs: Placed features.

    Raises:
        SpecError: If structures, types or shapes cannot be meant.
    """
    leaves, columns = align(specs, indices=indices, values=values, dense_shapes=dense_shapes)
    return [_gather_sparse(*leaf) for leaf in zip(leaves, *columns, strict=True)]


def align(
    specs: Nested[FeatureSpec], **trees: Nested[Any] | None
) -> tuple[list[FeatureSpec], list[list[Any]]]:
    """The leaves of ``specs``, and of every named tree those at the same places (None: Nones).

    A tuple may stand where ``specs`` has a list, and the other way round.

    Raises:
        SpecError: If a tree has another structure than ``specs``.
    """
    leaves, structure = jax.tree.flatten(specs)
    columns = []
    for name, tree in trees.items():
        if tree is None:
            columns.append([None] * len(leaves))
            continue
        try:
            columns.append(structure.flatten_up_to(tree))
        except (ValueError, TypeError, KeyError) as error:
            places, found = _with_places(specs), _with_places(tree)
            if [place for place, _ in places] == [place for place, _ in found]:
                columns.append([leaf for _, leaf in found])
                continue
            raise SpecError(
                f"{name} must have the structure of feature_specs ({structure}): {error}"
            ) from error
    return leaves, columns


def _with_places(tree: Any) -> list[tuple[Any, Any]]:
    """Every leaf with the way to it; a None is a leaf."""
    return jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda one: one is None)


def _gather(spec: FeatureSpec, ids: Any, gains: Any | None) -> FeatureInput:
    values, offsets = _in_place(spec, ids, "ids")
    if isinstance(values, np.ndarray) and (values.dtype != object or offsets is not None):
        values = _integers(spec, values)
    samples = len(values) if offsets is None else len(offsets) - 1
    if samples < 0:
        raise SpecError(f"feature '{spec.name}': offsets are empty; give one more than samples")
    if gains is None:
        return FeatureInput(spec, samples, values, None, offsets)
    weights, weight_offsets = _in_place(spec, gains, "gains")
    if isinstance(weights, np.ndarray) and (weights.dtype != object or weight_offsets is not None):
        weights = _floats(spec, weights)
    form, gain_form = (_form(v, o) for v, o in ((values, offsets), (weights, weight_offsets)))
    if form != gain_form:
        raise SpecError(
            f"feature '{spec.name}': its gains are {gain_form}, its ids {form}, "
            "which is another shape; give one gain per id, in the form of the ids"
        )
    if offsets is not None and weight_offsets is not None:
        values, offsets, weights = _same_positions(spec, values, offsets, weights, weight_offsets)
    elif (
        len(weights) != samples
        or getattr(weights, "shape", ())[1:] != (getattr(values, "shape", ())[1:])
    ):
        raise _gains_differ(spec)
    return FeatureInput(spec, samples, values, weights, offsets)


def _gather_sparse(spec: FeatureSpec, indices: Any, values: Any, shape: Any) -> FeatureInput:
    indices, values = np.asarray(indices), np.asarray(values)
    shape = tuple(int(size) for size in np.asarray(shape).reshape(-1))
    if values.ndim != 1 or indices.shape != (values.size, 2) or len(shape) != 2:
        raise SpecError(
            f"feature '{spec.name}': indices have shape {indices.shape}, values {values.shape} and "
            f"the dense shape is {shape}; give [n, 2], [n] and (samples, valency)"
        )
    if indices.dtype not in _IDS:
        if indices.size and indices.dtype.kind not in "iu":
            raise SpecError(
                f"feature '{spec.name}': indices are {indices.dtype}; give int32 or int64"
            )
        indices = indices.astype(np.int64)
    if shape[0] < 0:
        raise SpecError(f"feature '{spec.name}': the dense shape is {shape}; give positive sizes")
    return FeatureInput(spec, shape[0], _integers(spec, values), sample_of_id=indices[:, 0])


def _in_place(spec: FeatureSpec, value: Any, what: str) -> tuple[Any, np.ndarray | None]:
    """Values (dense, flat or rows), and offsets if the values are flat."""
    if isinstance(value, np.ndarray):
        return _dense(spec, value, what), None
    if isinstance(value, list | tuple):
        return value, None
    if isinstance(value, Ragged):
        return value.values, value.offsets
    if hasattr(value, "combine_chunks"):  # an Arrow ChunkedArray; one chunk is not copied
        value = value.chunk(0) if value.num_chunks == 1 else value.combine_chunks()
    list_size = getattr(getattr(value, "type", None), "list_size", None)
    if list_size is not None:
        _refuse_nulls(spec, value, what)
        return _numpy(spec, value.flatten(), what).reshape(len(value), list_size), None
    if hasattr(type(value), "offsets") and hasattr(type(value), "values"):
        if (found := _list_memory(spec, value, what)) is not None:
            return found
        offsets = _numpy(spec, value.offsets, what)
        if value.null_count:
            held = np.diff(offsets)[np.asarray(value.is_null())]
            if held.any():
                _refuse_nulls(spec, value, what)
        return _numpy(spec, value.values, what), offsets
    if hasattr(value, "null_count"):
        _refuse_nulls(spec, value, what)
    return _dense(spec, np.asarray(value), what), None


_OFFSET_TYPES = {"ListArray": np.dtype(np.int32), "LargeListArray": np.dtype(np.int64)}
_VALUE_TYPES = {
    "Int32Array": np.dtype(np.int32),
    "Int64Array": np.dtype(np.int64),
    "FloatArray": np.dtype(np.float32),
    "DoubleArray": np.dtype(np.float64),
}


def _list_memory(spec: FeatureSpec, value: Any, what: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Values and offsets of the usual Arrow lists, by the shortest way; None for others."""
    offset_type = _OFFSET_TYPES.get(type(value).__name__)
    values = value.values
    value_type = _VALUE_TYPES.get(type(values).__name__)
    if not (offset_type and value_type and len(values)) or value.null_count or values.null_count:
        return None
    _, offsets, _, data = value.buffers()
    try:
        return (
            np.frombuffer(data, value_type, len(values), values.offset * value_type.itemsize),
            np.frombuffer(
                offsets, offset_type, len(value) + 1, value.offset * offset_type.itemsize
            ),
        )
    except ValueError as error:
        raise SpecError(
            f"feature '{spec.name}': {what} are an Arrow array with less memory than it says "
            f"({error}); build the lists anew"
        ) from error


def _dense(spec: FeatureSpec, value: np.ndarray, what: str) -> np.ndarray:
    if value.dtype == object:
        return value
    if value.ndim == 1:
        return value[:, None]
    if value.ndim != 2:
        raise SpecError(
            f"feature '{spec.name}': {what} have shape {value.shape}; give [samples, valency], or "
            "flatten a sequence into the samples"
        )
    return value


def _numpy(spec: FeatureSpec, array: Any, what: str) -> np.ndarray:
    """An Arrow array's memory."""
    _refuse_nulls(spec, array, what)
    if not hasattr(array, "to_numpy") or hasattr(array, "offsets"):
        raise SpecError(
            f"feature '{spec.name}': {what} are {array.type}; give one list of numbers per sample"
        )
    return array.to_numpy(zero_copy_only=False)


def _refuse_nulls(spec: FeatureSpec, array: Any, what: str) -> None:
    if array.null_count:
        raise SpecError(
            f"feature '{spec.name}': {what} hold {array.null_count} nulls; fill them with "
            "pyarrow.compute.fill_null, or leave them out (the id -1 is padding)"
        )


def _integers(spec: FeatureSpec, values: np.ndarray) -> np.ndarray:
    if values.dtype in _IDS:
        return values
    if values.dtype.kind not in "iu":
        if values.size:
            raise SpecError(f"feature '{spec.name}': ids are {values.dtype}; give int32 or int64")
    elif values.dtype == np.uint64 and values.size and values.max() >= 2**63:
        raise SpecError(
            f"feature '{spec.name}': the uint64 id {values.max()} does not fit int64; ids must be "
            f"below the vocabulary_size {spec.table_spec.vocabulary_size}: hash or clip the ids"
        )
    return values.astype(np.int64)


def _floats(spec: FeatureSpec, values: np.ndarray) -> np.ndarray:
    if values.dtype == np.float32:
        return values
    # ml_dtypes' bfloat16 and its like are of kind V.
    if values.dtype.kind not in "iufbV":
        raise SpecError(f"feature '{spec.name}': gains are {values.dtype}; give float32")
    with np.errstate(over="ignore"):  # the engines refuse infinity, by sample
        return values.astype(np.float32)


def _form(values: Any, offsets: np.ndarray | None) -> str:
    if offsets is not None:
        return "values with offsets"
    is_dense = isinstance(values, np.ndarray) and values.dtype != object
    return "a dense array" if is_dense else "rows"


def _same_positions(
    spec: FeatureSpec,
    values: np.ndarray,
    offsets: np.ndarray,
    weights: np.ndarray,
    weight_offsets: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, offsets and gains so that gain ``k`` belongs to id ``k``."""
    if offsets.shape != weight_offsets.shape:
        raise _gains_differ(spec)
    if np.array_equal(offsets, weight_offsets):
        return values, offsets, weights
    first, weight_first = int(offsets[0]), int(weight_offsets[0])
    offsets = offsets.astype(np.int64) - first
    if not np.array_equal(offsets, weight_offsets.astype(np.int64) - weight_first):
        raise _gains_differ(spec)
    if not (0 <= first <= values.size and 0 <= weight_first <= weights.size):
        raise SpecError(
            f"feature '{spec.name}': offsets start at {first}, those of its gains at "
            f"{weight_first}, outside {values.size} ids and {weights.size} gains; "
            "build the lists anew"
        )
    return values[first:], offsets, weights[weight_first:]


def _gains_differ(spec: FeatureSpec) -> SpecError:
    return SpecError(
        f"feature '{spec.name}': its gains have another shape than its ids; give one gain per id"
    )
