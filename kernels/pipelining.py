"""Lookup of one batch while the model works on the batch before: SparseCores and TensorCores busy.

A training step has three stages: lookup on the SparseCores (*SC forward*), the model's forward and
backward pass on the TensorCores (*TC*), and the update on the SparseCores (*SC backward*). One call
of `step` runs each of them, on three batches, so that no stage waits for another:

    call         0     1     2     3   ...   n-1     n    n+1
    SC backward  ·     ·     0     1         n-3   n-2    n-1     ┐ in this order, as both work on
    SC forward   0     1     2     3         n-1     ·      ·     ┘ the tables
    TC           ·     0     1     2         n-2   n-1      ·       beside both

The price is staleness: batch i is looked up in tables that hold the updates of the batches 0 to
i - 2; without pipelining they would hold that of i - 1 too. The model's own parameters are never
stale. n batches take n + 2 calls. In the first and the last call TC has no batch
(``fake_tc_step=True``); in the last two, SC forward gets placeholders (zeros: buffers without ids).

Names and meaning are those of ``nn.embedding_pipelining_utils`` in the repository of
jax-tpu-embedding, and of its documentation's page on pipelining.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import Sharding

from kernels.pipeline_stages import (
    DefaultEmbeddingActivations,
    DefaultEmbeddingGradients,
    DefaultScBwdAux,
    DefaultScFwdAux,
    DefaultSparseInputs,
    DefaultTcAux,
    NestedArray,
    NestedEmbeddingVariables,
    NestedFeatureSpecs,
    ScBwdStageFun,
    ScFwdStageFun,
    TcStageFun,
    get_default_sc_bwd_function,
    get_default_sc_fwd_function,
)
from kernels.table_format import embedding_table_format_with_sharding

__all__ = [
    "CurrentStepInput",
    "DefaultEmbeddingActivations",
    "DefaultEmbeddingGradients",
    "DefaultScBwdAux",
    "DefaultScFwdAux",
    "DefaultSparseInputs",
    "DefaultTcAux",
    "LastStepInput",
    "NestedArray",
    "NestedEmbeddingVariables",
    "NestedFeatureSpecs",
    "PipelineState",
    "ScBwdStageFun",
    "ScFwdStageFun",
    "ShardedLastStepInput",
    "ShardedStepBeforeLastStepInput",
    "Sharding",
    "StepBeforeLastStepInput",
    "TcStageFun",
    "get_default_sc_bwd_function",
    "get_default_sc_fwd_function",
    "get_initial_state",
    "get_pipeline_state_sharding",
    "get_pipeline_train_steps",
    "is_output_valid",
    "step",
]


class _Replaceable:
    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        return replace(cast(Any, self), **changes)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CurrentStepInput[SparseInput, DenseInput](_Replaceable):
    """Batch i of call i; a pytree."""

    sparse_inputs: SparseInput
    """For SC forward now and SC backward in two calls."""
    dense_inputs: DenseInput
    """For TC in the next call."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LastStepInput[SparseInput, DenseInput, Activations, ScFwdAux](_Replaceable):
    """Batch i - 1 in call i; a pytree."""

    sparse_inputs: SparseInput
    """For SC backward in the next call."""
    embedding_activations: Activations
    """For TC now."""
    dense_inputs: DenseInput
    """For TC now."""
    sc_fwd_aux: ScFwdAux
    """For TC now."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StepBeforeLastStepInput[SparseInput, Gradients, TcAux](_Replaceable):
    """Batch i - 2 in call i; a pytree."""

    sparse_inputs: SparseInput
    embedding_gradients: Gradients
    tc_aux: TcAux


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PipelineState[SparseInput, DenseInput, Activations, Gradients, TcAux, ScFwdAux, Output](
    _Replaceable
):
    """What the pipeline hands from one call of `step` to the next; a pytree."""

    pipeline_step: jax.Array
    """Calls so far, an int32 scalar. Not the training step."""
    last_step_inputs: LastStepInput[SparseInput, DenseInput, Activations, ScFwdAux]
    step_before_last_step_inputs: StepBeforeLastStepInput[SparseInput, Gradients, TcAux]
    placeholder_output: Output
    """What `step` returns as the output of a call without TC."""
    placeholder_tc_aux: TcAux


ShardedLastStepInput = LastStepInput[Sharding, Sharding, Sharding, Sharding]
ShardedStepBeforeLastStepInput = StepBeforeLastStepInput[Sharding, Sharding, Sharding]


def get_pipeline_train_steps(num_steps: int) -> int:
    """Calls of `step` that ``num_steps`` batches take: two more."""
    return num_steps + 2


def is_output_valid(pipeline_step: int, num_steps: int) -> bool:
    """Whether the output of a call is that of a batch; TC must run in exactly these calls.

    Args:
        pipeline_step: Number of the call, from 0.
        num_steps: Number of batches.
    """
    return 1 <= pipeline_step <= num_steps


def get_pipeline_state_sharding[State](
    pipeline_state_cls: Callable[..., State],
    dense_input_sharding: Sharding,
    sparse_input_sharding: Sharding,
    pipeline_output_sharding: Sharding,
    tc_aux_sharding: Sharding,
) -> State:
    """Shardings in the form of a `PipelineState`, for `jax.device_put` and `jax.jit`.

    Args:
        pipeline_state_cls: `PipelineState`, or a class with the same fields.
        dense_input_sharding: Of the dense inputs and SC forward's further data.
        sparse_input_sharding: Of the sparse inputs; activations and gradients lie the same way, on
            TPUs in the SparseCores' layout.
        pipeline_output_sharding: Of TC's output.
        tc_aux_sharding: Of TC's further data.
    """
    stacked: Any = embedding_table_format_with_sharding(sparse_input_sharding)
    return pipeline_state_cls(
        pipeline_step=None,
        last_step_inputs=LastStepInput(
            sparse_inputs=sparse_input_sharding,
            embedding_activations=stacked,
            dense_inputs=dense_input_sharding,
            sc_fwd_aux=dense_input_sharding,
        ),
        step_before_last_step_inputs=StepBeforeLastStepInput(
            sparse_inputs=sparse_input_sharding,
            embedding_gradients=stacked,
            tc_aux=tc_aux_sharding,
        ),
        placeholder_output=pipeline_output_sharding,
        placeholder_tc_aux=tc_aux_sharding,
    )


def get_initial_state(
    pipeline_input: CurrentStepInput[Any, Any],
    tc_train_state: Any,
    embedding_variables: Any,
    sc_fwd_function: ScFwdStageFun[Any, Any, Any, Any],
    tc_function: TcStageFun[Any, Any, Any, Any, Any, Any, Any],
    dense_input_sharding: Sharding | None = None,
    sparse_input_sharding: Sharding | None = None,
) -> PipelineState[Any, Any, Any, Any, Any, Any, Any]:
    """The state before the first call of `step`: all zeros.

    Sparse inputs of zeros are buffers without ids, so the first two calls update nothing.

    Args:
        pipeline_input: A batch, for its shapes alone.
        tc_train_state: The model's state, for its shapes.
        embedding_variables: The tables, for their shapes.
        sc_fwd_function: Is traced to learn what it returns, not run.
        tc_function: Is traced and compiled to learn what it returns and where, not run. Inside a
            trace (`jax.eval_shape`, `jax.jit`) it is not compiled either.
        dense_input_sharding: Where the dense inputs will lie; None for the default device.
        sparse_input_sharding: Where sparse inputs, activations and gradients will lie; None for
            the default device.
    """
    stacked = (
        None
        if sparse_input_sharding is None
        else embedding_table_format_with_sharding(sparse_input_sharding)
    )
    sparse = jax.tree.map(
        functools.partial(_zeros, place=sparse_input_sharding), pipeline_input.sparse_inputs
    )
    dense = jax.tree.map(
        functools.partial(_zeros, place=dense_input_sharding), pipeline_input.dense_inputs
    )
    activations, sc_fwd_aux = jax.eval_shape(sc_fwd_function, sparse, embedding_variables)
    activations = jax.tree.map(functools.partial(_zeros, place=stacked), activations)
    sc_fwd_aux = jax.tree.map(_zeros, sc_fwd_aux)
    gradients, output, _, tc_aux = _shapes_and_places(
        tc_function, activations, dense, tc_train_state, sc_fwd_aux
    )
    output, tc_aux = jax.tree.map(lambda shape: _zeros(shape, shape.sharding), (output, tc_aux))
    # Nothing may be in two places, so that a caller can donate the state.
    return PipelineState(
        pipeline_step=jnp.array(0),
        last_step_inputs=LastStepInput(
            sparse_inputs=sparse,
            embedding_activations=activations,
            dense_inputs=dense,
            sc_fwd_aux=sc_fwd_aux,
        ),
        step_before_last_step_inputs=StepBeforeLastStepInput(
            sparse_inputs=jax.tree.map(_safe_copy, sparse),
            embedding_gradients=jax.tree.map(functools.partial(_zeros, place=stacked), gradients),
            tc_aux=tc_aux,
        ),
        placeholder_output=output,
        placeholder_tc_aux=jax.tree.map(_safe_copy, tc_aux),
    )


def _shapes_and_places(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns, as `jax.ShapeDtypeStruct`; with shardings outside of a trace."""
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(arguments)):
        return jax.eval_shape(function, *arguments)
    lowered = jax.jit(function).lower(*arguments)
    return jax.tree.map(
        lambda shape, place: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=place),
        lowered.out_info,
        lowered.compile().output_shardings,
    )


def _zeros(like: Any, place: Any = None) -> jax.Array:
    """Zeros of the shape and type of ``like``; a scalar has no place."""
    if place is None or not np.shape(like):
        return jnp.zeros_like(like)
    return jax.jit(lambda: jnp.zeros(like.shape, like.dtype), out_shardings=place)()


def _safe_copy(value: Any) -> Any:
    """A copy of an array as a JAX array; anything else as it is."""
    return jnp.copy(value) if isinstance(value, jax.Array | np.ndarray) else value


def step(
    pipeline_input: CurrentStepInput[Any, Any],
    tc_train_state: Any,
    embedding_variables: Any,
    pipeline_state: PipelineState[Any, Any, Any, Any, Any, Any, Any],
    sc_fwd_function: ScFwdStageFun[Any, Any, Any, Any],
    tc_function: TcStageFun[Any, Any, Any, Any, Any, Any, Any],
    sc_bwd_function: ScBwdStageFun[Any, Any, Any, Any, Any],
    *,
    fake_tc_step: bool,
) -> tuple[Any, Any, Any, Any, PipelineState[Any, Any, Any, Any, Any, Any, Any]]:
    """One call of the pipeline: SC backward of batch i - 2, SC forward of i, TC of i - 1.

    Jit it with ``fake_tc_step`` static, and tables, state and pipeline state donated. The two
    forms it takes are two straight programs: a branch inside would keep the stages from
    overlapping.

    Args:
        pipeline_input: Batch i; placeholders (`jax.numpy.zeros_like` of a batch) in the last two
            calls.
        tc_train_state: The model's state.
        embedding_variables: The tables.
        pipeline_state: What the call before returned, at first `get_initial_state`.
        sc_fwd_function: Lookup.
        tc_function: The model.
        sc_bwd_function: Update.
        fake_tc_step: Leave TC out: in the calls that are not `is_output_valid`.

    Returns:
        ``(output of batch i - 1, further data of SC backward, state, tables, pipeline state)``.

    Example:
        >>> for call in range(get_pipeline_train_steps(len(batches))):
        ...     batch = batches[call] if call < len(batches) else empty
        ...     valid = is_output_valid(call, len(batches))
        ...     output, _, state, tables, pipeline = step(
        ...         batch, state, tables, pipeline, lookup, model, update, fake_tc_step=not valid)
    """
    last, before = pipeline_state.last_step_inputs, pipeline_state.step_before_last_step_inputs
    with jax.named_scope("pipelined_sc_bwd"):
        embedding_variables, sc_bwd_aux = sc_bwd_function(
            before.sparse_inputs, before.embedding_gradients, embedding_variables, before.tc_aux
        )
    with jax.named_scope("pipelined_sc_fwd"):
        activations, sc_fwd_aux = sc_fwd_function(pipeline_input.sparse_inputs, embedding_variables)
    with jax.named_scope("pipelined_tc"):
        if fake_tc_step:
            gradients = before.embedding_gradients
            output, tc_aux = pipeline_state.placeholder_output, pipeline_state.placeholder_tc_aux
        else:
            gradients, output, tc_train_state, tc_aux = tc_function(
                last.embedding_activations, last.dense_inputs, tc_train_state, last.sc_fwd_aux
            )
    following = pipeline_state.replace(
        pipeline_step=pipeline_state.pipeline_step + 1,
        last_step_inputs=LastStepInput(
            sparse_inputs=pipeline_input.sparse_inputs,
            embedding_activations=activations,
            dense_inputs=pipeline_input.dense_inputs,
            sc_fwd_aux=sc_fwd_aux,
        ),
        step_before_last_step_inputs=StepBeforeLastStepInput(
            sparse_inputs=last.sparse_inputs, embedding_gradients=gradients, tc_aux=tc_aux
        ),
    )
    return output, sc_bwd_aux, tc_train_state, embedding_variables, following
