"""The embedding layer for flax.nnx."""

from __future__ import annotations

from typing import Any

import jax
import optax
from flax import nnx
from jax.sharding import Mesh

from kernels import utils
from kernels.layers.mesh_tables import MeshTables
from kernels.preprocessing.format import PreprocessedInput
from kernels.specs import FeatureSpec, Nested

__all__ = [
    "EmbeddingVariablesParam",
    "Nested",
    "PartitionedOptimizer",
    "SparseCoreEmbed",
    "embedding_lookup",
    "embedding_lookup_bwd",
    "get_named_sharding",
    "is_embedding_variables",
    "is_non_embedding_variables",
]


class EmbeddingVariablesParam(nnx.Param):
    """The variables of all stacks of a layer: tells them from a model's other parameters."""


def is_embedding_variables(_: Any, value: Any) -> bool:
    """Filter of nnx: the embedding variables only."""
    return isinstance(value, EmbeddingVariablesParam)


def is_non_embedding_variables(_: Any, value: Any) -> bool:
    """Filter of nnx: everything but the embedding variables."""
    return not isinstance(value, EmbeddingVariablesParam)


def get_named_sharding(node: nnx.Module | nnx.Optimizer, mesh: Mesh) -> nnx.StateSharding:
    """Shardings of a model or an optimizer, for ``in_shardings`` of `nnx.jit`.

    Embedding variables have the sharding, and on TPUs the memory layout, they were made with:
    without it, XLA may copy every table at the start of a step.

    Args:
        node: The model or the optimizer.
        mesh: The mesh.

    Example:
        >>> @nnx.jit(
        ...     in_shardings=(get_named_sharding(model, mesh), get_named_sharding(optimizer, mesh),
        ...                   data_sharding, data_sharding),
        ...     donate_argnames=["model", "optimizer"],
        ... )
        ... def train_step(model, optimizer, batch, labels): ...
    """

    def sharding(_: Any, variable: Any) -> Any:
        if isinstance(variable, EmbeddingVariablesParam):
            return variable.embedding_sharding
        return nnx.get_named_sharding(variable, mesh)

    return nnx.StateSharding(nnx.map_state(sharding, nnx.state(node)))


class PartitionedOptimizer(nnx.Optimizer):
    """An optimizer for models with the layer.

    What `nnx.grad` returns for embedding variables is their new value, which is put in place. The
    gradients of all other parameters go to optax.

    Args:
        model: The model.
        dense_optimizer: For all but the embedding variables.
    """

    def __init__(self, model: nnx.Module, dense_optimizer: optax.GradientTransformation) -> None:
        super().__init__(model, dense_optimizer, wrt=is_non_embedding_variables)

    def update(self, model: nnx.Module, grads: optax.Updates, /, **kwargs: Any) -> None:
        """One step.

        Args:
            model: The model, changed in place.
            grads: What `nnx.grad` returned for it.
            **kwargs: For the optax optimizer.
        """
        nnx.update(model, nnx.state(grads, is_embedding_variables))
        super().update(model, grads, **kwargs)


class SparseCoreEmbed(nnx.Module):
    """Embedding tables of features, as one layer.

    ``embedding_table`` holds the tables with their slot variables. The optimizers of the tables
    are those of their specs and run in the backward pass: what `nnx.grad` returns for
    ``embedding_table`` is its new value, which `PartitionedOptimizer` puts in place. Look up once
    in a loss.

    Args:
        feature_specs: Features that have been stacked: see `prepare_feature_specs_for_training`.
        sharding_axis: Mesh axis that rows and samples are sharded over.
        mesh: The mesh.
        rngs: Its ``params`` key makes the first values.
        enable_minibatching: Whether batches are split where they exceed the limits.
        table_sharding_strategy: Only ``MOD``.

    Example:
        >>> layer = SparseCoreEmbed(specs, "x", mesh, nnx.Rngs(params=0))
        >>> activations = layer(batch)
    """

    def __init__(
        self,
        feature_specs: Nested[FeatureSpec],
        sharding_axis: str,
        mesh: Mesh,
        rngs: nnx.Rngs,
        *,
        enable_minibatching: bool = False,
        table_sharding_strategy: str = "MOD",
    ) -> None:
        self.feature_specs = feature_specs
        self.sharding_axis = sharding_axis
        self.mesh = mesh
        self.table_sharding_strategy = table_sharding_strategy
        self.enable_minibatching = enable_minibatching
        self.num_sc_per_device = utils.num_sparsecores_per_device(mesh.devices.flat[0])
        tables = self._tables
        self.embedding_table_partition = tables.table_partition
        self.data_partition = tables.data_partition
        self.num_shards = tables.num_shards
        # The format goes with the variables, as get_named_sharding needs it.
        self.embedding_table = EmbeddingVariablesParam(
            tables.initialize(rngs.params()),
            embedding_sharding=utils.embedding_table_format(mesh, tables.table_partition),
        )

    @property
    def _tables(self) -> MeshTables:
        return MeshTables(
            self.feature_specs,
            self.mesh,
            self.sharding_axis,
            self.num_sc_per_device,
            self.table_sharding_strategy,
            self.enable_minibatching,
        )

    def __call__(
        self, embedding_lookup_inputs: PreprocessedInput, step: jax.Array | None = None
    ) -> Nested[jax.Array]:
        """Activations, in the structure of ``feature_specs`` and the type of the tables.

        Args:
            embedding_lookup_inputs: What `preprocess_sparse_dense_matmul_input` returned.
            step: For optimizers whose hyperparameters are functions of the step.
        """
        return embedding_lookup(self, embedding_lookup_inputs, step=step)


@nnx.custom_vjp
def embedding_lookup(
    embedding_layer: SparseCoreEmbed,
    embedding_lookup_inputs: PreprocessedInput,
    step: jax.Array | None = None,
) -> Nested[jax.Array]:
    """Activations of a batch, whose gradient by the layer is its new variables.

    Args:
        embedding_layer: The layer.
        embedding_lookup_inputs: What `preprocess_sparse_dense_matmul_input` returned.
        step: For optimizers whose hyperparameters are functions of the step.
    """
    del step
    tables = embedding_layer.embedding_table.get_value()
    return embedding_layer._tables.lookup(embedding_lookup_inputs, tables)


def _embedding_lookup_fwd(
    embedding_layer: SparseCoreEmbed,
    embedding_lookup_inputs: PreprocessedInput,
    step: jax.Array | None = None,
) -> tuple[Any, Any]:
    kept = (embedding_layer, embedding_lookup_inputs, step)
    return embedding_lookup(embedding_layer, embedding_lookup_inputs, step=step), kept


def embedding_lookup_bwd(res: tuple[Any, ...], g: tuple[Any, Any]) -> tuple[Any, ...]:
    """The backward pass of `embedding_lookup`, as `nnx.custom_vjp` calls it.

    Args:
        res: The layer, the batch and, if it was given, the step.
        g: ``(updates of the arguments, gradients of the activations)``; the first of the updates
            is the layer's state.

    Returns:
        The updates, with the variables after the optimizer step in that of the layer.
    """
    layer, batch, *rest = res
    (layer_updates, *other_updates), gradients = g
    new = layer._tables.update(
        gradients, batch, layer.embedding_table.get_value(), rest[0] if rest else None
    )
    changed = jax.tree.map(lambda leaf: leaf, layer_updates)  # a copy: it is not ours
    changed["embedding_table"].set_value(new)
    return (changed, *other_updates)


embedding_lookup.defvjp(_embedding_lookup_fwd, embedding_lookup_bwd)
