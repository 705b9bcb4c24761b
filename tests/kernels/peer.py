"""The same specs in jax-tpu-embedding, to compare with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jax_tpu_embedding.sparsecore.lib.core import pybind_input_preprocessing
from jax_tpu_embedding.sparsecore.lib.nn import embedding, embedding_spec, table_stacking

import kernels

__all__ = [
    "assert_same_placement",
    "embedding",
    "embedding_spec",
    "preprocess",
    "preprocess_sparse",
    "specs_like",
    "table_stacking",
]


def optimizer_like(optimizer: kernels.OptimizerSpec) -> Any:
    kind = getattr(embedding_spec, type(optimizer).__name__)
    return kind(**optimizer.parameters())


def specs_like(specs: Mapping[str, kernels.FeatureSpec]) -> dict[str, Any]:
    """Unplaced copies of unplaced specs."""
    tables: dict[str, Any] = {}
    result = {}
    for key, spec in specs.items():
        mine = spec.table_spec
        if mine.name not in tables:
            fields = {
                f.name: getattr(mine, f.name)
                for f in dataclasses.fields(mine)
                if not f.name.startswith("_") and f.name not in ("optimizer", "quantization_config")
            }
            tables[mine.name] = embedding_spec.TableSpec(
                **fields, optimizer=optimizer_like(mine.optimizer)
            )
        result[key] = embedding_spec.FeatureSpec(
            name=spec.name,
            table_spec=tables[mine.name],
            input_shape=spec.input_shape,
            output_shape=spec.output_shape,
        )
    return result


def placed_like(specs: Mapping[str, kernels.FeatureSpec]) -> dict[str, Any]:
    """Copies of placed specs, with their placement and limits."""
    theirs = specs_like(specs)
    for key, spec in specs.items():
        table, stack = spec.table_spec, spec.table_spec.stacked_table_spec
        there = theirs[key].table_spec
        there.setting_in_stack = embedding_spec.TableSettingInStack(
            **dataclasses.asdict(table.setting_in_stack)
        )
        fields = {
            f.name: getattr(stack, f.name)
            for f in dataclasses.fields(stack)
            if f.name not in ("optimizer", "quantization_config", "unpadded_embedding_dim")
        }
        there.stacked_table_spec = embedding_spec.StackedTableSpec(
            **fields, optimizer=optimizer_like(stack.optimizer)
        )
        theirs[key].id_transformation = embedding_spec.FeatureIdTransformation(
            **dataclasses.asdict(spec.id_transformation)
        )
    return theirs


def assert_same_placement(
    ours: Mapping[str, kernels.FeatureSpec], theirs: Mapping[str, Any]
) -> None:
    for key, mine in ours.items():
        other = theirs[key]
        for place in ("setting_in_stack", "stacked_table_spec"):
            here, there = getattr(mine.table_spec, place), getattr(other.table_spec, place)
            for field in dataclasses.fields(there):
                if field.name != "optimizer":
                    a, b = getattr(here, field.name), getattr(there, field.name)
                    assert a == b, (key, place, field.name, a, b)
        assert dataclasses.asdict(mine.id_transformation) == dataclasses.asdict(
            other.id_transformation
        )


def preprocess(
    specs: Mapping[str, kernels.FeatureSpec],
    ids: Mapping[str, Any],
    gains: Mapping[str, Any] | None,
    local_devices: int,
    devices: int,
    per_device: int,
    **options: Any,
) -> Any:
    """Row pointers, ids, samples, gains (by stack), minibatches and statistics."""
    theirs = placed_like(specs)
    keys = list(specs)
    return pybind_input_preprocessing.preprocess_sparse_dense_matmul_input(
        [ids[key] for key in keys],
        None if gains is None else [gains[key] for key in keys],
        [theirs[key] for key in keys],
        local_devices,
        devices,
        num_sc_per_device=per_device,
        **options,
    )


def preprocess_sparse(
    specs: Mapping[str, kernels.FeatureSpec],
    indices: Mapping[str, Any],
    values: Mapping[str, Any],
    shapes: Mapping[str, Any],
    local_devices: int,
    devices: int,
    per_device: int,
    **options: Any,
) -> Any:
    """Like `preprocess`, of sparse tensors."""
    theirs = placed_like(specs)
    keys = list(specs)
    return pybind_input_preprocessing.preprocess_sparse_dense_matmul_sparse_coo_input(
        [indices[key] for key in keys],
        [values[key] for key in keys],
        [shapes[key] for key in keys],
        [theirs[key] for key in keys],
        local_devices,
        devices,
        num_sc_per_device=per_device,
        **options,
    )
