"""The stages of a pipelined training step: what each takes and gives, and the usual ones.

See `kernels.pipelining`, which runs them.
"""

from __future__ import annotations

import functools
import types
from typing import Any, Protocol

import jax
from jax.sharding import Mesh, PartitionSpec

from kernels.errors import SpecError
from kernels.lookup import tpu_sparse_dense_matmul
from kernels.preprocessing.format import PreprocessedInput
from kernels.specs import FeatureSpec, Nested
from kernels.update import tpu_sparse_dense_matmul_grad
from kernels.variables import EmbeddingVariables

__all__ = [
    "DefaultEmbeddingActivations",
    "DefaultEmbeddingGradients",
    "DefaultScBwdAux",
    "DefaultScFwdAux",
    "DefaultSparseInputs",
    "DefaultTcAux",
    "NestedArray",
    "NestedEmbeddingVariables",
    "NestedFeatureSpecs",
    "ScBwdStageFun",
    "ScFwdStageFun",
    "TcStageFun",
    "get_default_sc_bwd_function",
    "get_default_sc_fwd_function",
]

NestedArray = Nested[jax.Array]
NestedFeatureSpecs = Nested[FeatureSpec]
NestedEmbeddingVariables = Nested[EmbeddingVariables]

DefaultSparseInputs = PreprocessedInput
DefaultEmbeddingActivations = jax.Array | None
DefaultEmbeddingGradients = jax.Array | None
DefaultScFwdAux = types.NoneType
DefaultTcAux = types.NoneType
DefaultScBwdAux = types.NoneType


class ScFwdStageFun[SparseInput, Activations, Variables, ScFwdAux](Protocol):
    """Lookup: what `get_default_sc_fwd_function` gives, or one of your own."""

    def __call__(
        self, sparse_inputs: SparseInput, embedding_variables: Variables
    ) -> tuple[Activations, ScFwdAux]:
        """Activations, and whatever else TC of this batch needs (None for nothing)."""
        ...


class TcStageFun[Activations, DenseInput, Gradients, Output, TrainState, ScFwdAux, TcAux](Protocol):
    """The model's forward and backward pass, and the update of its own parameters."""

    def __call__(
        self,
        embedding_activations: Activations,
        dense_inputs: DenseInput,
        train_state: TrainState,
        sc_fwd_aux: ScFwdAux | None = None,
    ) -> tuple[Gradients, Output, TrainState, TcAux]:
        """Gradients of the activations, output, new state, and what else SC backward needs."""
        ...


class ScBwdStageFun[SparseInput, Gradients, Variables, TcAux, ScBwdAux](Protocol):
    """Update: what `get_default_sc_bwd_function` gives, or one of your own."""

    def __call__(
        self,
        sparse_inputs: SparseInput,
        embedding_gradients: Gradients,
        embedding_variables: Variables,
        tc_aux: TcAux | None = None,
    ) -> tuple[Variables, ScBwdAux]:
        """The tables after the update, and whatever `step` shall return with them."""
        ...


def get_default_sc_fwd_function(
    feature_specs: NestedFeatureSpecs, global_mesh: Mesh, num_sc_per_device: int | None = None
) -> ScFwdStageFun[Any, Any, Any, None]:
    """SC forward as `tpu_sparse_dense_matmul` over a mesh, without further data for TC.

    Args:
        feature_specs: Stacked features.
        global_mesh: A mesh of one axis.
        num_sc_per_device: SparseCores of a device; None asks the first device.

    Raises:
        SpecError: If the mesh has several axes.
    """
    over, rows = _one_axis(global_mesh)
    lookup = jax.shard_map(
        functools.partial(
            tpu_sparse_dense_matmul,
            feature_specs=feature_specs,
            global_device_count=global_mesh.size,
            num_sc_per_device=num_sc_per_device,
            platform=global_mesh.devices.flat[0].platform,
        ),
        mesh=global_mesh,
        in_specs=(over, rows),
        out_specs=over,
        check_vma=False,
    )

    def sc_forward(sparse_inputs: Any, embedding_variables: Any) -> tuple[Any, None]:
        return lookup(sparse_inputs, embedding_variables), None

    return sc_forward


def get_default_sc_bwd_function(
    feature_specs: NestedFeatureSpecs, global_mesh: Mesh, num_sc_per_device: int | None = None
) -> ScBwdStageFun[Any, Any, Any, Any, None]:
    """SC backward as `tpu_sparse_dense_matmul_grad` over a mesh, without further data to return.

    Args:
        feature_specs: Stacked features, with hyperparameters that do not depend on the step.
        global_mesh: A mesh of one axis.
        num_sc_per_device: SparseCores of a device; None asks the first device.

    Raises:
        SpecError: If the mesh has several axes.
    """
    over, rows = _one_axis(global_mesh)
    update = jax.shard_map(
        functools.partial(
            tpu_sparse_dense_matmul_grad,
            feature_specs=feature_specs,
            global_device_count=global_mesh.size,
            num_sc_per_device=num_sc_per_device,
            platform=global_mesh.devices.flat[0].platform,
        ),
        mesh=global_mesh,
        in_specs=(over, over, rows),
        out_specs=rows,
        check_vma=False,
    )

    def sc_backward(
        sparse_inputs: Any, embedding_gradients: Any, embedding_variables: Any, tc_aux: Any = None
    ) -> tuple[Any, None]:
        del tc_aux
        return update(embedding_gradients, sparse_inputs, embedding_variables), None

    return sc_backward


def _one_axis(mesh: Mesh) -> tuple[PartitionSpec, PartitionSpec]:
    if len(mesh.shape) != 1:
        raise SpecError(
            f"global_mesh must be 1d, got {len(mesh.shape)}: its axes are {mesh.axis_names}; make "
            "one of a single axis, or write your own stage"
        )
    (axis,) = mesh.axis_names
    return PartitionSpec(axis), PartitionSpec(axis, None)
