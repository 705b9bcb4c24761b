"""Checkpoints of nnx models with the embedding layer, through Orbax.

    <folder>/<step>/model/            the model's state, tables and slot variables among it
                    optimizer/        the optimizer's state
                    embedding_spec/   JSON: how the tables are stacked, see `SavedLayout`

`restore_checkpoint` goes back to the same mesh, `restore_cross_topology_checkpoint` to another one,
and `convert_cross_topology_checkpoint` writes a checkpoint for another one without the model.
Where jax-tpu-embedding saves a protobuf message, this saves JSON; all else is as it has it.
"""

from __future__ import annotations

import logging
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from flax import nnx
from jax.experimental.layout import Format
from jax.sharding import Sharding

from kernels.errors import SpecError
from kernels.layers.checkpoint_conversion import TargetTopology, convert_cross_topology_checkpoint
from kernels.layers.checkpoint_folder import (
    TABLES,
    PathLike,
    create_checkpoint_manager,
    decompress_checkpoint,
    find_tables,
    found_step,
    open_reader,
    saved_layout,
)
from kernels.layers.checkpoint_tables import SavedLayout, like_saved, moved
from kernels.layers.nnx import EmbeddingVariablesParam, SparseCoreEmbed
from kernels.specs import FeatureSpec, Nested
from kernels.utils import embedding_table_format_with_sharding

__all__ = [
    "Nested",
    "TargetTopology",
    "convert_cross_topology_checkpoint",
    "create_checkpoint_manager",
    "decompress_checkpoint",
    "restore_checkpoint",
    "restore_cross_topology_checkpoint",
    "save_checkpoint",
]

_log = logging.getLogger(__name__)


def save_checkpoint(
    *,
    cp_manager: ocp.CheckpointManager,
    step: int,
    model: nnx.Module,
    optimizer: nnx.Optimizer,
    feature_specs: Nested[FeatureSpec],
    num_global_devices: int,
    num_sc_per_device: int,
    model_key: str = "model",
    optimizer_key: str = "optimizer",
    embedding_spec_key: str = "embedding_spec",
) -> None:
    """Start saving a model; ``cp_manager.wait_until_finished()`` waits until it is done.

    Args:
        cp_manager: See `create_checkpoint_manager`.
        step: Number of the checkpoint.
        model: The model.
        optimizer: Its optimizer.
        feature_specs: The features the layer was made from.
        num_global_devices: Devices of the mesh.
        num_sc_per_device: SparseCores of a device.
        model_key: Name of the model's state.
        optimizer_key: Name of the optimizer's state.
        embedding_spec_key: Name of the embedding spec.

    Raises:
        SpecError: If the features were stacked for another mesh.
    """
    layout = SavedLayout.of(feature_specs, num_global_devices, num_sc_per_device)
    items = {
        model_key: ocp.args.StandardSave(nnx.state(model)),
        optimizer_key: ocp.args.StandardSave(nnx.state(optimizer, nnx.OptState)),
        embedding_spec_key: ocp.args.JsonSave(layout.to_json()),
    }
    cp_manager.save(step, args=ocp.args.Composite(**items))


def restore_checkpoint(
    *,
    cp_manager: ocp.CheckpointManager | None = None,
    input_checkpoint_path: PathLike | None = None,
    step: int | None = None,
    model: nnx.Module,
    optimizer: nnx.Optimizer,
    model_key: str = "model",
    optimizer_key: str = "optimizer",
    embedding_spec_key: str = "embedding_spec",
) -> None:
    """Load a checkpoint that was saved on the same mesh, into model and optimizer.

    Args:
        cp_manager: See `create_checkpoint_manager`. If this and the path are None, nothing is done.
        input_checkpoint_path: Folder of the checkpoints, when there is no manager.
        step: Number of the checkpoint, None for the newest.
        model: Changed in place.
        optimizer: Changed in place.
        model_key: Name of the model's state.
        optimizer_key: Name of the optimizer's state.
        embedding_spec_key: Name of the embedding spec.

    Raises:
        SpecError: If there is no such checkpoint, a part of it is missing, or it was saved on
            another mesh.
    """
    keys = (model_key, optimizer_key, embedding_spec_key)
    if cp_manager is None:
        if input_checkpoint_path is None:
            return
        with open_reader(input_checkpoint_path, keys) as reader:
            _restore(reader, step, model, optimizer, keys)
    else:
        _restore(cp_manager, step, model, optimizer, keys)


def _restore(
    manager: ocp.CheckpointManager,
    step: int | None,
    model: nnx.Module,
    optimizer: nnx.Optimizer,
    keys: tuple[str, str, str],
) -> None:
    step = found_step(manager, step, keys)
    layer = _embedding_layer(model)[1]
    here = SavedLayout.of(layer.feature_specs, layer.num_shards, layer.num_sc_per_device)
    if not saved_layout(manager, step, keys[2]).same_places(here):
        raise SpecError(
            f"checkpoint {step} in {manager.directory} was saved with its tables laid out for "
            "another mesh, or stacked otherwise; use restore_cross_topology_checkpoint"
        )
    items = {
        keys[0]: ocp.args.StandardRestore(nnx.state(model)),
        keys[1]: ocp.args.StandardRestore(nnx.state(optimizer, nnx.OptState)),
    }
    restored = manager.restore(step, args=ocp.args.Composite(**items))
    nnx.update(model, restored[keys[0]])
    nnx.update(optimizer, restored[keys[1]])
    tables = layer.embedding_table
    tables.set_value(jax.tree.map(_in_format, tables.get_value()))
    _log.info("restored checkpoint %d of %s", step, manager.directory)


def restore_cross_topology_checkpoint(
    *,
    cross_topology_checkpoint_restore_path: PathLike | None,
    model: nnx.Module,
    optimizer: nnx.Optimizer,
    target_feature_specs: Nested[FeatureSpec],
    num_global_devices: int,
    num_sc_per_device: int,
    model_key: str = "model",
    optimizer_key: str = "optimizer",
    embedding_spec_key: str = "embedding_spec",
    embedding_layer_name: str | None = None,
    restore_step: int | None = None,
) -> None:
    """Load a checkpoint that was saved on another mesh, or with other stacks.

    Every process reads all tables into its memory.

    Args:
        cross_topology_checkpoint_restore_path: Folder of the checkpoints; None does nothing.
        model: Changed in place. Padding rows and columns of its tables keep their values.
        optimizer: Changed in place.
        target_feature_specs: The features the model's layer was made from.
        num_global_devices: Devices of the model's mesh.
        num_sc_per_device: SparseCores of a device there.
        model_key: Name of the model's state.
        optimizer_key: Name of the optimizer's state.
        embedding_spec_key: Name of the embedding spec.
        embedding_layer_name: The model's attribute that is the layer; None looks for it.
        restore_step: Number of the checkpoint, None for the newest.

    Raises:
        SpecError: If there is no such checkpoint, a part of it is missing, the model has no such
            layer, or its tables are others.
    """
    if cross_topology_checkpoint_restore_path is None:
        return
    keys = (model_key, optimizer_key, embedding_spec_key)
    name, layer = _embedding_layer(model, embedding_layer_name)
    target = SavedLayout.of(target_feature_specs, num_global_devices, num_sc_per_device)
    now = layer.embedding_table.get_value()
    with open_reader(cross_topology_checkpoint_restore_path, keys) as manager:
        step = found_step(manager, restore_step, keys)
        source = saved_layout(manager, step, embedding_spec_key)
        saved = find_tables(manager.item_metadata(step)[model_key].tree, name)
        wanted = _with_tables(nnx.state(model), name, like_saved(saved, target, source, now))
        items = {
            model_key: ocp.args.StandardRestore(wanted),
            optimizer_key: ocp.args.StandardRestore(nnx.state(optimizer, nnx.OptState)),
        }
        restored = manager.restore(step, args=ocp.args.Composite(**items))
    read = restored[model_key][name][TABLES].get_value()
    new = {}
    for stack, parts in moved(source, read, target, now).items():
        arrays = [parts["table"], *jax.tree.leaves(parts["slot"])]
        leaves, structure = jax.tree.flatten(now[stack])
        placed = [_placed(a, leaf.sharding) for a, leaf in zip(arrays, leaves, strict=True)]
        new[stack] = jax.tree.unflatten(structure, placed)
    nnx.update(model, _with_tables(restored[model_key], name, new))
    nnx.update(optimizer, restored[optimizer_key])
    _log.info("restored checkpoint %d of %s for another mesh", step, manager.directory)


def _embedding_layer(model: nnx.Module, name: str | None = None) -> tuple[str, SparseCoreEmbed]:
    """The model's embedding layer and the attribute it is."""
    if name is not None:
        if not hasattr(model, name):
            raise SpecError(
                f"Model does not have an attribute named {name} of type embed.SparseCoreEmbed; "
                "name the layer"
            )
        layer = getattr(model, name)
        if not isinstance(layer, SparseCoreEmbed):
            raise SpecError(
                f"Attribute {name} in model is not of type embed.SparseCoreEmbed but "
                f"{type(layer).__name__}; name the layer"
            )
        return name, layer
    for attribute, value in vars(model).items():
        if isinstance(value, SparseCoreEmbed):
            return attribute, value
    raise SpecError(
        "Could not automatically locate an attribute of type embed.SparseCoreEmbed in model. "
        "Please specify embedding_layer_name explicitly."
    )


def _with_tables(state: nnx.State, name: str, tables: Any) -> nnx.State:
    """The state with other variables of the layer."""

    def change(path: tuple[Any, ...], variable: Any) -> Any:
        mine = path[0] == name and isinstance(variable, EmbeddingVariablesParam)
        return variable.replace(value=tables) if mine else variable

    return nnx.map_state(change, state)


def _placed(array: Any, sharding: Sharding) -> jax.Array:
    """A numpy array that every process has, put on the devices."""
    made = jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
    return _in_format(made)


def _in_format(array: jax.Array) -> jax.Array:
    """The array in the memory layout of tables; itself where that is JAX's own."""
    form = embedding_table_format_with_sharding(array.sharding)
    if not isinstance(form, Format):
        return array
    return jax.jit(jnp.copy, out_shardings=form)(array)
