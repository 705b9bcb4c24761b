"""The embedding layer for flax.linen."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax import typing
from flax.core import meta
from jax.experimental.layout import Format
from jax.sharding import Mesh, PartitionSpec, Sharding

from kernels import utils
from kernels.layers.mesh_tables import MeshTables
from kernels.preprocessing.encode import preprocess_sparse_dense_matmul_input
from kernels.preprocessing.format import PreprocessedInput
from kernels.specs import FeatureSpec, Nested
from kernels.variables import EmbeddingVariables

__all__ = [
    "EMBEDDING_PARAM_NAME",
    "AxisName",
    "EmbeddingInitializer",
    "EmbeddingLookupInput",
    "LogicalNames",
    "Nested",
    "PartitionNames",
    "SparseCoreEmbed",
    "SparseCoreLayoutInitializer",
    "WithSparseCoreLayout",
    "with_sparsecore_layout",
]

EMBEDDING_PARAM_NAME = "sc_embedding_variables"
"""Name of the layer's one parameter: the variables of all its stacks."""

EmbeddingLookupInput = PreprocessedInput
LogicalNames = typing.LogicalNames
AxisName = str | tuple[str, ...] | None
PartitionNames = tuple[AxisName, ...] | LogicalNames
"""The mesh axes of every dimension."""

EmbeddingInitializer = Callable[[jax.Array], Mapping[str, EmbeddingVariables]]
"""``initializer(key)`` → the variables of all stacks."""


class WithSparseCoreLayout[A](nn.Partitioned[A]):
    """A parameter with its sharding, and on TPUs the memory layout SparseCores read."""

    def get_sharding(self, mesh: Mesh) -> Sharding | Format:  # pyright: ignore[reportIncompatibleMethodOverride]
        """What to give `jax.jit` as ``out_shardings`` of the parameter."""
        return utils.embedding_table_format(mesh, self.get_partition_spec())


SparseCoreLayoutInitializer = Callable[
    [jax.Array], WithSparseCoreLayout[Mapping[str, EmbeddingVariables]]
]


def with_sparsecore_layout(
    fn: EmbeddingInitializer, names: PartitionNames, mesh: Mesh
) -> SparseCoreLayoutInitializer:
    """An initializer whose values say how they are sharded.

    Args:
        fn: ``initializer(key)``.
        names: The mesh axes of every dimension of a table.
        mesh: The mesh.
    """

    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> WithSparseCoreLayout[Any]:
        # Flax types names as strings; it passes tuples of mesh axes on to PartitionSpec as well.
        return WithSparseCoreLayout(fn(*args, **kwargs), names, mesh=mesh)  # pyright: ignore[reportArgumentType]

    return wrapper


class SparseCoreEmbed(nn.Module):
    """Embedding tables of features, as one layer.

    The layer has one parameter, `EMBEDDING_PARAM_NAME`: the tables with their slot variables. The
    optimizers of the tables are those of their specs and run in the backward pass: what `jax.grad`
    returns for this parameter is its new value. `kernels.layers.embed_optimizer` puts it in place
    and gives the gradients of all other parameters to optax. Look up once in a loss.

    Attributes:
        feature_specs: Features that have been stacked: see `prepare_feature_specs_for_training`.
        sharding_axis: Mesh axis, or axes, that rows and samples are sharded over.
        _mesh: The mesh; None makes one of all devices.
        table_sharding_strategy: Only ``MOD``.
        enable_minibatching: Whether batches are split where they exceed the limits.
        num_sc_per_device: SparseCores of a device, -1 to ask the mesh's first device.

    Example:
        >>> layer = SparseCoreEmbed(feature_specs=specs)
        >>> batch = layer.preprocess_inputs(0, ids, None)
        >>> params = layer.init(jax.random.key(0), batch)
        >>> activations = layer.apply(params, batch)
    """

    feature_specs: Nested[FeatureSpec]
    sharding_axis: str | tuple[str, ...] = "sparsecore_sharding"
    _mesh: Mesh | None = None
    table_sharding_strategy: str = "MOD"
    enable_minibatching: bool = False
    num_sc_per_device: int = -1

    def __post_init__(self) -> None:
        if self._mesh is None:
            axis = self.sharding_axis
            names = [axis] if isinstance(axis, str) else list(axis)
            self._mesh = Mesh(np.array(jax.devices()), names)
        if self.num_sc_per_device == -1:
            device = self._mesh.devices.flat[0]
            self.num_sc_per_device = utils.num_sparsecores_per_device(device)
        super().__post_init__()

    @property
    def mesh(self) -> Mesh:
        """The mesh."""
        assert self._mesh is not None
        return self._mesh

    @property
    def embedding_table_partition(self) -> PartitionSpec:
        """How tables ``[rows, width]`` are sharded."""
        return self._tables.table_partition

    @property
    def data_partition(self) -> PartitionSpec:
        """How buffers and activations ``[samples, columns]`` are sharded."""
        return self._tables.data_partition

    @property
    def num_shards(self) -> int:
        """Devices that hold different rows."""
        return self._tables.num_shards

    @property
    def embedding_table(self) -> Mapping[str, EmbeddingVariables] | None:
        """The variables by stack, without flax's boxes; None before they are made."""
        if self.has_variable("params", EMBEDDING_PARAM_NAME):
            return meta.unbox(self.get_variable("params", EMBEDDING_PARAM_NAME))
        return None

    @property
    def _tables(self) -> MeshTables:
        return MeshTables(
            _plain(self.feature_specs),
            self.mesh,
            self.sharding_axis,
            self.num_sc_per_device,
            self.table_sharding_strategy,
            self.enable_minibatching,
        )

    def setup(self) -> None:
        """Declares the parameter."""
        make = with_sparsecore_layout(
            self._tables.initialize, (self.sharding_axis, None), self.mesh
        )
        self.param(EMBEDDING_PARAM_NAME, make)

    def preprocess_inputs(
        self,
        step: int,
        features: Nested[np.ndarray],
        features_weights: Nested[np.ndarray] | None,
        all_reduce_interface: Any | None = None,
    ) -> PreprocessedInput:
        """The buffers of a batch. Call it on the layer itself, not through ``apply``.

        Args:
            step: Number of the batch.
            features: In the structure of ``feature_specs``, the ids of this process.
            features_weights: Gains in the form of ``features``, None for 1.
            all_reduce_interface: With minibatching on several hosts, how they agree.
        """
        return preprocess_sparse_dense_matmul_input(
            features,
            features_weights,
            _plain(self.feature_specs),
            local_device_count=self.mesh.local_mesh.size,
            global_device_count=self.mesh.size,
            num_sc_per_device=self.num_sc_per_device,
            sharding_strategy=self.table_sharding_strategy,
            batch_number=step,
            enable_minibatching=self.enable_minibatching,
            all_reduce_interface=all_reduce_interface,
        )[0]

    def __call__(
        self,
        embedding_lookup_inputs: EmbeddingLookupInput,
        step: jax.Array | int | None = None,
    ) -> Nested[jax.Array]:
        """Activations, in the structure of ``feature_specs`` and the type of the tables.

        Args:
            embedding_lookup_inputs: What `preprocess_inputs` returned.
            step: For optimizers whose hyperparameters are functions of the step.
        """
        return self._tables.lookup_that_updates(embedding_lookup_inputs, self._made_tables, step)

    def apply_gradient(
        self,
        gradients: Nested[jax.Array],
        embedding_lookup_inputs: EmbeddingLookupInput,
        step: jax.Array | int | None = None,
    ) -> Mapping[str, Mapping[str, EmbeddingVariables]]:
        """One optimizer step of the tables: ``layer.apply(params, ..., method="apply_gradient")``.

        Args:
            gradients: Of the loss by the activations.
            embedding_lookup_inputs: The buffers they were looked up from.
            step: For optimizers whose hyperparameters are functions of the step.

        Returns:
            The new variables, by the path of the parameter.
        """
        new = self._tables.update(gradients, embedding_lookup_inputs, self._made_tables, step)
        return {"/".join((*self.path, EMBEDDING_PARAM_NAME)): new}

    @property
    def _made_tables(self) -> Mapping[str, EmbeddingVariables]:
        tables = self.embedding_table
        assert tables is not None, "setup() declares them"
        return tables


def _plain(tree: Any) -> Any:
    """Specs as they were given: flax turns dicts in attributes into dicts of its own."""
    if isinstance(tree, Mapping):
        return {key: _plain(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        items = [_plain(value) for value in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    return tree
