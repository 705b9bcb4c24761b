"""What a user says about tables and features, and what stacking writes into it.

    FeatureSpec ──► TableSpec ──► StackedTableSpec      (written by stacking)
        │               └───────► TableSettingInStack   (written by stacking)
        └───────────────────────► FeatureIdTransformation

Names, defaults and meaning are those of ``nn.embedding_spec`` of jax-tpu-embedding 0.2.0, so that
specs can be moved over by changing an import. Beyond it, values that cannot work are refused when
the spec is made, with a `SpecError` that says what to change.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, SupportsIndex

from kernels.errors import SpecError
from kernels.optimizers.base import Initializer, OptimizerSpec

__all__ = [
    "COMBINERS",
    "DEFAULT_ACTIVATION_MEM_BYTES_LIMIT",
    "FeatureIdTransformation",
    "FeatureSpec",
    "LimitsCallable",
    "Nested",
    "QuantizationConfig",
    "StackedTableSpec",
    "TableSettingInStack",
    "TableSpec",
]

DEFAULT_ACTIVATION_MEM_BYTES_LIMIT: int = 2 * 1024 * 1024
"""Bytes of activations one SparseCore may hold for one stack before auto-stacking splits it."""

COMBINERS: tuple[str, ...] = ("sum", "mean", "sqrtn")
"""How the rows of one sample become one vector."""

type Nested[T] = T | Sequence[Nested[T]] | Mapping[str, Nested[T]]
"""A leaf, or any nesting of sequences and mappings of leaves."""

type LimitsCallable = Callable[[str, int], int]
"""(stack name, samples in the stack) → limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationConfig:
    """Simulated quantization of the rows a lookup reads, before they are combined.

    A value is clipped to ``[min_value, max_value]`` and rounded to the nearest of ``num_buckets``
    equally spaced values of that range.
    """

    min_value: float
    max_value: float
    num_buckets: int

    def __post_init__(self) -> None:
        if self.num_buckets < 2:
            raise SpecError(
                f"QuantizationConfig: num_buckets {self.num_buckets} is too small; give at least 2"
            )
        if self.min_value >= self.max_value:
            raise SpecError(
                f"QuantizationConfig: min_value {self.min_value} must be below max_value "
                f"{self.max_value}; swap or widen them"
            )

    def as_tuple(self) -> tuple[float, float, int]:
        """``(min_value, max_value, num_buckets)``."""
        return (self.min_value, self.max_value, self.num_buckets)


@dataclass(frozen=True)
class FeatureIdTransformation:
    """Where a feature's samples and ids lie in its stack."""

    row_offset: int = 0
    """First sample of this feature among the samples of the stack (global count). With features
    A, B and C of 16 samples each on one table, 0, 16 and 32."""
    col_offset: int = 0
    """Added to an id: the row offset of the table in a shard, times the number of SparseCores."""
    col_shift: int = 0
    """SparseCores by which the table's shards are rotated."""


@dataclass(frozen=True, kw_only=True)
class TableSettingInStack:
    """Where one table lies in its stack.

    Id ``i`` of the table is on SparseCore ``(i + shard_rotation) % S``, at row
    ``row_offset_in_shard + i // S`` of that SparseCore's shard, with S SparseCores in all.
    """

    stack_name: str
    """Name of the stack; the table's own name if it is alone."""
    padded_vocab_size: int
    """Rows the table takes over all shards: the vocabulary, up to a multiple of 8 S."""
    padded_embedding_dim: int
    """Columns the table takes: the widest table of the stack, up to a multiple of 8."""
    row_offset_in_shard: int = 0
    """First row of the table in every shard."""
    shard_rotation: int = 0
    """SparseCores by which the shards are rotated, so that the small ids of stacked tables, often
    the hot ones, do not all meet on SparseCore 0."""


@dataclass(frozen=True, kw_only=True)
class StackedTableSpec:
    """Several tables stored, looked up and updated as one."""

    stack_name: str
    stack_vocab_size: int
    """Rows of the stack over all shards: the sum of its tables' padded vocabularies."""
    stack_embedding_dim: int
    """Columns of the stack, a multiple of 8."""
    optimizer: OptimizerSpec
    combiner: str
    total_sample_count: int
    """Samples of a global batch over all features of the stack."""
    max_ids_per_partition: int = 256
    """Most ids one SparseCore asks of one other in a batch (a partition), duplicates of one sample
    counted once."""
    max_unique_ids_per_partition: int = 256
    """Most different ids in a partition."""
    activation_mem_bytes_limit: int = DEFAULT_ACTIVATION_MEM_BYTES_LIMIT
    suggested_coo_buffer_size_per_device: int | None = None
    """Entries of the input buffer of a device; None takes the largest that the limits allow."""
    quantization_config: QuantizationConfig | None = None
    unpadded_embedding_dim: int | None = None
    """Columns in use by all tables of the stack, where the optimizer's update depends on their
    number (`OptimizerSpec.mixes_columns`); otherwise None."""

    def replace(self, **changes: Any) -> StackedTableSpec:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


_WRITTEN_BY_STACKING = frozenset(
    {"_stacked_table_spec", "_setting_in_stack", "stacked_table_spec", "setting_in_stack"}
)
_LIMITS = frozenset(
    {
        "max_ids_per_partition",
        "max_unique_ids_per_partition",
        "suggested_coo_buffer_size_per_device",
    }
)


@dataclass(eq=True, unsafe_hash=True, kw_only=True)
class TableSpec:
    """One embedding table.

    Hashable and compared by value, so that it can be a static argument of `jax.jit`. Only stacking
    writes into it, and what stacking writes does not count in comparisons.

    Example:
        >>> users = TableSpec(
        ...     name="users", vocabulary_size=1_000_000, embedding_dim=32,
        ...     initializer=jax.nn.initializers.normal(0.01),
        ...     optimizer=AdagradOptimizerSpec(learning_rate=0.05), combiner="sum",
        ... )
    """

    name: str
    vocabulary_size: int
    """Rows: ids run from 0 to ``vocabulary_size - 1``."""
    embedding_dim: int
    """Columns."""
    initializer: Initializer
    """``initializer(key, shape)`` gives the first values, as in `jax.nn.initializers`."""
    optimizer: OptimizerSpec
    combiner: str
    """``sum``, ``mean`` (divided by the sum of the gains) or ``sqrtn`` (divided by the root of the
    sum of the squared gains)."""
    max_ids_per_partition: int = 256
    """Most ids one SparseCore asks of one other in a batch."""
    max_unique_ids_per_partition: int = 256
    """Most different ids in a partition."""
    suggested_coo_buffer_size_per_device: int | None = None
    """Entries of the input buffer of a device; None takes the largest that the limits allow."""
    quantization_config: QuantizationConfig | None = None

    _initialized: bool = field(init=False, default=False, compare=False, repr=False)
    _stacked_table_spec: StackedTableSpec | None = field(default=None, compare=False)
    _setting_in_stack: TableSettingInStack | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        self._check()
        if self._setting_in_stack is None:
            self._setting_in_stack = TableSettingInStack(
                stack_name=self.name,
                padded_vocab_size=self.vocabulary_size,
                padded_embedding_dim=self.embedding_dim,
            )
        object.__setattr__(self, "_initialized", True)

    def _check(self) -> None:
        if not self.name:
            raise SpecError("a table has an empty name; give every table a name of its own")
        for what in ("vocabulary_size", "embedding_dim", *sorted(_LIMITS)):
            value: Any = getattr(self, what)
            if value is None and what == "suggested_coo_buffer_size_per_device":
                continue
            if isinstance(value, bool) or not isinstance(value, SupportsIndex) or int(value) < 1:
                raise SpecError(
                    f"table '{self.name}': {what} is {value!r}; give a whole number of at least 1"
                )
        if self.combiner not in COMBINERS:
            raise SpecError(
                f"table '{self.name}': combiner {self.combiner!r} is unknown; "
                f"use one of {', '.join(COMBINERS)}"
            )
        if not isinstance(self.optimizer, OptimizerSpec):
            raise SpecError(
                f"table '{self.name}': optimizer is {self.optimizer!r}; give an OptimizerSpec, "
                "for example AdagradOptimizerSpec(learning_rate=0.05)"
            )
        if not callable(self.initializer):
            raise SpecError(
                f"table '{self.name}': initializer is {self.initializer!r}; give a function of "
                "(key, shape), for example jax.nn.initializers.normal(0.01)"
            )

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _WRITTEN_BY_STACKING and self._initialized and self.is_stacked():
            advice = (
                "limits now live in its StackedTableSpec: build a new plan with other limits, or "
                "call update_preprocessing_parameters"
                if name in _LIMITS
                else "make a new one with dataclasses.replace(table_spec, ...), put it into its "
                "features, and stack again"
            )
            raise AttributeError(
                f"Cannot update parameter '{name}' on TableSpec '{self.name}' after it has been "
                f"stacked; {advice}"
            )
        super().__setattr__(name, value)

    @property
    def setting_in_stack(self) -> TableSettingInStack:
        """Where the table lies in its stack."""
        assert self._setting_in_stack is not None
        return self._setting_in_stack

    @setting_in_stack.setter
    def setting_in_stack(self, value: TableSettingInStack) -> None:
        self._setting_in_stack = value

    @property
    def stacked_table_spec(self) -> StackedTableSpec:
        """The stack the table belongs to.

        Raises:
            SpecError: If the table has not been stacked.
        """
        if self._stacked_table_spec is None:
            raise SpecError(
                f"Table {self.name} is not stacked: embedding.prepare_feature_specs_for_training "
                "was not called; call it first, or use the specs that apply_plan returns"
            )
        return self._stacked_table_spec

    @stacked_table_spec.setter
    def stacked_table_spec(self, value: StackedTableSpec) -> None:
        self._stacked_table_spec = value

    def is_stacked(self) -> bool:
        """Whether stacking has placed this table."""
        return self._stacked_table_spec is not None


@dataclass(eq=True, unsafe_hash=True, kw_only=True)
class FeatureSpec:
    """One input of a model: a list of ids per sample, looked up in one table.

    Several features may share a table. For a sequence feature, flatten the sequence into the
    samples: ``[batch * sequence, valency]``.
    """

    name: str
    table_spec: TableSpec
    input_shape: Sequence[int]
    """``[global samples, valency]``; ``[global samples]`` for ragged input of unknown valency."""
    output_shape: Sequence[int]
    """``[global samples, columns]``, with at most the table's ``embedding_dim`` columns."""
    _id_transformation: FeatureIdTransformation | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not self.name:
            raise SpecError("a feature has an empty name; give every feature a name of its own")
        # Tuples, as a list could not be hashed.
        self.input_shape = tuple(self.input_shape)
        self.output_shape = tuple(self.output_shape)
        if len(self.output_shape) < 2:
            raise SpecError(
                f"feature '{self.name}': output_shape {self.output_shape} must be "
                f"(samples, columns), for example ({self.input_shape[0] if self.input_shape else 1}"
                f", {self.table_spec.embedding_dim})"
            )
        if not self.input_shape:
            raise SpecError(f"feature '{self.name}': input_shape is empty; give (samples, valency)")

    @property
    def id_transformation(self) -> FeatureIdTransformation:
        """Where the feature lies in its stack.

        Raises:
            SpecError: If the feature's table has not been stacked.
        """
        if self._id_transformation is None:
            raise SpecError(
                f"feature '{self.name}' is not placed in a stack; use the specs that apply_plan "
                "returns, or call prepare_feature_specs_for_training first"
            )
        return self._id_transformation

    @id_transformation.setter
    def id_transformation(self, value: FeatureIdTransformation) -> None:
        self._id_transformation = value

    def is_placed(self) -> bool:
        """Whether stacking has placed this feature."""
        return self._id_transformation is not None
