"""Lookup: a preprocessed batch and the tables give activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax

from kernels.activations import unstack_embedding_activations
from kernels.backends import select_backend
from kernels.planning.stacking import get_stacked_table_specs
from kernels.preprocessing.format import PreprocessedInput, SparseDenseMatmulInput
from kernels.specs import FeatureSpec, Nested
from kernels.stacks import as_variables, same_stacks, stack_inputs, stack_layouts
from kernels.utils import check_num_sparsecores
from kernels.variables import EmbeddingVariables

__all__ = ["tpu_sparse_dense_matmul"]


def tpu_sparse_dense_matmul(
    preprocessed_inputs: PreprocessedInput | SparseDenseMatmulInput,
    embedding_variables: Mapping[str, EmbeddingVariables],
    feature_specs: Nested[FeatureSpec],
    *,
    global_device_count: int,
    sharding_strategy: str = "MOD",
    num_sc_per_device: int | None = None,
    enable_minibatching: bool = False,
    perform_unstacking: bool = True,
    use_activation_unstack_primitive: bool = False,
    platform: str | None = None,
    axis_names: Sequence[str] | None = None,
) -> Nested[jax.Array]:
    """Look up a batch: for each feature and sample, the gain-weighted sum of its rows.

    Call it inside `jax.shard_map` over the mesh that shards the tables; on a single device it can
    be called anywhere. (The name is that of jax-tpu-embedding; it runs on every platform.)

    Args:
        preprocessed_inputs: This device's share of the buffers.
        embedding_variables: By stack, this device's rows: `EmbeddingVariables`, or any pytree
            with the table first. Tables may be of a narrower type than float32, such as bfloat16.
        feature_specs: Stacked features: what `apply_plan` returns.
        global_device_count: Devices of the mesh.
        sharding_strategy: Only ``MOD``.
        num_sc_per_device: SparseCores of a device; None asks the first device.
        enable_minibatching: Whether the batch was encoded with ``enable_minibatching=True``.
        perform_unstacking: Return activations by feature; otherwise by stack, with all columns.
        use_activation_unstack_primitive: A choice for TPUs; the result is the same.
        platform: Platform of the mesh, None for that of the default devices.
        axis_names: Mesh axes that shard the tables, None for all that `jax.shard_map` made manual.

    Returns:
        In the structure of ``feature_specs``, ``[samples of the device, columns]`` float32.

    Raises:
        SpecError: If inputs, variables and specs are not of one plan, or the function is called
            for several devices outside `jax.shard_map`.

    Example:
        >>> lookup = jax.shard_map(
        ...     functools.partial(tpu_sparse_dense_matmul, feature_specs=specs,
        ...                       global_device_count=mesh.size, num_sc_per_device=1),
        ...     mesh=mesh, in_specs=(P("x"), P("x")), out_specs=P("x"), check_vma=False)
        >>> activations = jax.jit(lookup)(batch, tables)
    """
    stacks = get_stacked_table_specs(feature_specs)
    same_stacks("embedding_variables", embedding_variables, stacks)
    per_device = check_num_sparsecores(num_sc_per_device)
    layouts = stack_layouts(
        stacks, global_device_count, per_device, axis_names, enable_minibatching
    )
    inputs = stack_inputs(preprocessed_inputs, layouts, sharding_strategy)
    backend = select_backend(platform)
    activations: dict[str, jax.Array] = {}
    for name, layout in layouts.items():
        table = as_variables(name, embedding_variables[name]).table
        with jax.named_scope(f"lookup-{name}"):
            activations[name] = backend.lookup(layout, inputs[name], table)
    if not perform_unstacking:
        return activations
    return unstack_embedding_activations(
        activations,
        feature_specs,
        global_device_count,
        per_device,
        use_activation_unstack_primitive,
    )
