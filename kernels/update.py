"""Update: gradients of the activations change the rows of the batch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, cast, overload

import jax

from kernels.activations import stack_embedding_gradients
from kernels.backends import StackInput, StackLayout, select_backend
from kernels.errors import SpecError
from kernels.frozen import check_frozen_tables, without_tables
from kernels.planning.stacking import get_stacked_table_specs, get_table_specs
from kernels.preprocessing.format import PreprocessedInput, SparseDenseMatmulInput
from kernels.specs import FeatureSpec, Nested, TableSpec
from kernels.stacks import as_variables, same_stacks, stack_inputs, stack_layouts
from kernels.table_gradients import TableGradients, unstack_table_gradients
from kernels.utils import check_num_sparsecores
from kernels.variables import EmbeddingVariables

__all__ = ["tpu_sparse_dense_matmul_grad"]

type _Bounds = Mapping[str, tuple[float | None, float | None]]


@overload
def tpu_sparse_dense_matmul_grad(
    activation_gradients: Nested[jax.Array],
    preprocessed_inputs: PreprocessedInput | SparseDenseMatmulInput,
    embedding_variables: Mapping[str, EmbeddingVariables],
    feature_specs: Nested[FeatureSpec],
    *,
    global_device_count: int | None = ...,
    sharding_strategy: str = ...,
    label: str = ...,
    step: jax.Array | int | None = ...,
    num_sc_per_device: int | None = ...,
    enable_minibatching: bool = ...,
    perform_stacking: bool = ...,
    use_gradient_stacking_primitive: bool = ...,
    embedding_var_limits: _Bounds | None = ...,
    platform: str | None = ...,
    axis_names: Sequence[str] | None = ...,
    frozen_tables: Collection[str] = ...,
    return_gradients: Literal[False] = ...,
) -> dict[str, EmbeddingVariables]: ...


@overload
def tpu_sparse_dense_matmul_grad(
    activation_gradients: Nested[jax.Array],
    preprocessed_inputs: PreprocessedInput | SparseDenseMatmulInput,
    embedding_variables: Mapping[str, EmbeddingVariables],
    feature_specs: Nested[FeatureSpec],
    *,
    global_device_count: int | None = ...,
    sharding_strategy: str = ...,
    label: str = ...,
    step: jax.Array | int | None = ...,
    num_sc_per_device: int | None = ...,
    enable_minibatching: bool = ...,
    perform_stacking: bool = ...,
    use_gradient_stacking_primitive: bool = ...,
    embedding_var_limits: _Bounds | None = ...,
    platform: str | None = ...,
    axis_names: Sequence[str] | None = ...,
    frozen_tables: Collection[str] = ...,
    return_gradients: Literal[True],
) -> dict[str, TableGradients]: ...


def tpu_sparse_dense_matmul_grad(
    activation_gradients: Nested[jax.Array],
    preprocessed_inputs: PreprocessedInput | SparseDenseMatmulInput,
    embedding_variables: Mapping[str, EmbeddingVariables],
    feature_specs: Nested[FeatureSpec],
    *,
    global_device_count: int | None = None,
    sharding_strategy: str = "MOD",
    label: str = "",
    step: jax.Array | int | None = None,
    num_sc_per_device: int | None = None,
    enable_minibatching: bool = False,
    perform_stacking: bool = True,
    use_gradient_stacking_primitive: bool = False,
    embedding_var_limits: _Bounds | None = None,
    platform: str | None = None,
    axis_names: Sequence[str] | None = None,
    frozen_tables: Collection[str] = (),
    return_gradients: bool = False,
) -> dict[str, EmbeddingVariables] | dict[str, TableGradients]:
    """One optimizer step for the rows of a batch; all other rows keep their values.

    Call it like `tpu_sparse_dense_matmul`. Jit with the variables donated, so that they are changed
    in place: without, XLA copies every table.

    Args:
        activation_gradients: In the structure of ``feature_specs``, ``[samples of the device,
            columns]``: gradients of the global loss by this device's activations.
        preprocessed_inputs: The buffers the activations were looked up from.
        embedding_variables: By stack, this device's rows: `EmbeddingVariables`, or any pytree of
            the table and its slot variables in this order.
        feature_specs: Stacked features.
        global_device_count: Devices of the mesh; None takes those of the surrounding shard_map.
        sharding_strategy: Only ``MOD``.
        label: Added to the name of the computation in profiles.
        step: For hyperparameters that are functions of the step.
        num_sc_per_device: SparseCores of a device; None asks the first device.
        enable_minibatching: Whether the batch was encoded with ``enable_minibatching=True``.
        perform_stacking: Gradients come by feature; otherwise by stack, with all columns.
        use_gradient_stacking_primitive: A choice for TPUs; the result is the same.
        embedding_var_limits: By stack, lowest and highest value of updated entries, None for no
            bound.
        platform: Platform of the mesh, None for that of the default devices.
        axis_names: Mesh axes that shard the tables, None for all that `jax.shard_map` made manual.
        frozen_tables: Names of tables whose rows and slot variables stay as they are, whatever the
            optimizer.
        return_gradients: Return the gradients of the tables, and update nothing.

    Returns:
        The variables after the step, by stack, each in the structure it was given; or with
        ``return_gradients``, the gradients of the tables that are not frozen, by table.

    Raises:
        SpecError: If inputs, variables, gradients and specs are not of one plan, or a frozen table
            does not exist.

    Example:
        >>> gradients = tpu_sparse_dense_matmul_grad(
        ...     activation_gradients, batch, tables, specs, return_gradients=True)
        >>> gradients["users"].rows, gradients["users"].values
    """
    stacks = get_stacked_table_specs(feature_specs)
    same_stacks("embedding_variables", embedding_variables, stacks)
    per_device = check_num_sparsecores(num_sc_per_device)
    layouts = stack_layouts(
        stacks, global_device_count, per_device, axis_names, enable_minibatching
    )
    inputs = stack_inputs(preprocessed_inputs, layouts, sharding_strategy)
    if perform_stacking:
        gradients = stack_embedding_gradients(
            activation_gradients,
            feature_specs,
            per_device,
            global_device_count,
            use_gradient_stacking_primitive,
        )
    elif isinstance(activation_gradients, Mapping):
        gradients = cast(Mapping[str, jax.Array], activation_gradients)
    else:
        raise SpecError("perform_stacking=False: pass the gradients as a mapping by stack name")
    same_stacks("activation_gradients", gradients, stacks)

    tables = get_table_specs(feature_specs)
    frozen = check_frozen_tables(frozen_tables, tables)
    members = {name: _members(name, tables) for name in stacks}
    backend = select_backend(platform)
    if return_gradients:
        found: dict[str, TableGradients] = {}
        for name, layout in layouts.items():
            wanted = {key: spec for key, spec in members[name].items() if key not in frozen}
            if not wanted:
                continue
            table = as_variables(name, embedding_variables[name]).table
            with jax.named_scope(f"gradients-{name}{label}"):
                rows, values = backend.table_gradients(layout, inputs[name], gradients[name], table)
                found |= unstack_table_gradients(layout, wanted, rows, values, table.shape[0])
        return found

    updated: dict[str, EmbeddingVariables] = {}
    for name, layout in layouts.items():
        stack, given = layout.stack, embedding_variables[name]
        still = [spec for key, spec in members[name].items() if key in frozen]
        if len(still) == len(members[name]):
            updated[name] = given
            continue
        with jax.named_scope(f"{stack.optimizer.short_name()}-{name}{label}"):
            after = backend.update(
                layout,
                _unfrozen(layout, inputs[name], still),
                as_variables(name, given),
                gradients[name],
                stack.optimizer.get_hyperparameters(step),
                (embedding_var_limits or {}).get(name, (None, None)),
            )
        updated[name] = _in_structure_of(given, after)
    return updated


def _members(stack_name: str, tables: Mapping[str, TableSpec]) -> dict[str, TableSpec]:
    """The tables of a stack."""
    return {
        name: table
        for name, table in tables.items()
        if table.stacked_table_spec.stack_name == stack_name
    }


def _unfrozen(layout: StackLayout, batch: StackInput, frozen: Sequence[TableSpec]) -> StackInput:
    return without_tables(layout, batch, frozen) if frozen else batch


def _in_structure_of(given: Any, after: EmbeddingVariables) -> Any:
    return jax.tree.unflatten(jax.tree.structure(given), jax.tree.leaves(after))
