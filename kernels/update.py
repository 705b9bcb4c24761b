"""Update: gradients of the activations change the rows of the batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import jax

from kernels.activations import stack_embedding_gradients
from kernels.backends import StackLayout, select_backend
from kernels.errors import SpecError
from kernels.planning.stacking import get_stacked_table_specs
from kernels.preprocessing.format import PreprocessedInput, SparseDenseMatmulInput
from kernels.specs import FeatureSpec, Nested
from kernels.stacks import exchange_axes, mesh_size, same_stacks, stack_inputs
from kernels.utils import check_num_sparsecores
from kernels.variables import EmbeddingVariables

__all__ = ["tpu_sparse_dense_matmul_grad"]


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
    embedding_var_limits: Mapping[str, tuple[float | None, float | None]] | None = None,
    platform: str | None = None,
) -> dict[str, EmbeddingVariables]:
    """One optimizer step for the rows of a batch; all other rows keep their values.

    Call it like `tpu_sparse_dense_matmul`. Jit with the variables donated, so that they are changed
    in place: without, XLA copies every table.

    Args:
        activation_gradients: In the structure of ``feature_specs``, ``[samples of the device,
            columns]``: gradients of the global loss by this device's activations.
        preprocessed_inputs: The buffers the activations were looked up from.
        embedding_variables: By stack, this device's rows.
        feature_specs: Stacked features.
        global_device_count: Devices of the mesh; None takes those of the surrounding shard_map.
        sharding_strategy: Only ``MOD``.
        label: Added to the name of the computation in profiles.
        step: For hyperparameters that are functions of the step.
        num_sc_per_device: SparseCores of a device; None asks the first device.
        enable_minibatching: Not available in this backend.
        perform_stacking: Gradients come by feature; otherwise by stack, with all columns.
        use_gradient_stacking_primitive: A choice for TPUs; the result is the same.
        embedding_var_limits: By stack, lowest and highest value of updated entries, None for no
            bound.
        platform: Platform of the mesh, None for that of the default devices.

    Returns:
        The variables after the step, by stack.

    Raises:
        SpecError: If inputs, variables, gradients and specs are not of one plan.
    """
    stacks = get_stacked_table_specs(feature_specs)
    inputs = stack_inputs(preprocessed_inputs, stacks, sharding_strategy, enable_minibatching)
    same_stacks("embedding_variables", embedding_variables, stacks)
    per_device = check_num_sparsecores(num_sc_per_device)
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

    devices = mesh_size() if global_device_count is None else global_device_count
    axes = exchange_axes(devices)
    backend = select_backend(platform)
    updated: dict[str, EmbeddingVariables] = {}
    for name, stack in stacks.items():
        bounds = (embedding_var_limits or {}).get(name, (None, None))
        with jax.named_scope(f"{stack.optimizer.short_name()}-{name}{label}"):
            updated[name] = backend.update(
                StackLayout(stack, devices, per_device, axes),
                inputs[name],
                embedding_variables[name],
                gradients[name],
                stack.optimizer.get_hyperparameters(step),
                bounds,
            )
    return updated
