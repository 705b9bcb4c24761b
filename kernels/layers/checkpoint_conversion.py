"""A checkpoint for one mesh into one for another, without the model."""

from __future__ import annotations

import logging
from typing import NamedTuple

import jax
import orbax.checkpoint as ocp
from jax.sharding import SingleDeviceSharding

from kernels.layers.checkpoint_folder import (
    PathLike,
    find_tables,
    found_step,
    open_manager,
    open_reader,
    saved_layout,
)
from kernels.layers.checkpoint_tables import SavedLayout, moved, whole_tables
from kernels.specs import FeatureSpec, Nested

__all__ = ["TargetTopology", "convert_cross_topology_checkpoint"]

_log = logging.getLogger(__name__)


class TargetTopology(NamedTuple):
    """The mesh to convert a checkpoint for."""

    num_global_devices: int
    """Devices of the mesh."""
    num_sc_per_device: int
    """SparseCores of a device."""
    device_kind: str | None = None
    """What the devices are, for messages only."""


def convert_cross_topology_checkpoint(
    *,
    input_checkpoint_path: PathLike | None,
    output_checkpoint_path: PathLike | None,
    target_topology: TargetTopology | None = None,
    target_batch_size: int | None = None,
    model_key: str = "model",
    optimizer_key: str = "optimizer",
    embedding_spec_key: str = "embedding_spec",
    restore_step: int | None = None,
    save_step: int | None = None,
    target_feature_specs: Nested[FeatureSpec] | None = None,
) -> None:
    """Write a checkpoint for another mesh, on one machine and without the model.

    Args:
        input_checkpoint_path: Folder of the checkpoints to read; None does nothing.
        output_checkpoint_path: Folder to write to; None does nothing.
        target_topology: The mesh. None writes whole tables, each under its own name.
        target_batch_size: Samples of a global batch there, None for as many as before; it decides
            which tables fit into one stack.
        model_key: Name of the model's state.
        optimizer_key: Name of the optimizer's state.
        embedding_spec_key: Name of the embedding spec.
        restore_step: Number of the checkpoint, None for the newest.
        save_step: Number of the new one, None for the same.
        target_feature_specs: Features stacked for the new mesh; None stacks them as before.

    Raises:
        SpecError: If there is no such checkpoint, a part of it is missing, or the tables are
            others.
    """
    if input_checkpoint_path is None or output_checkpoint_path is None:
        return
    keys = (model_key, optimizer_key, embedding_spec_key)
    cpu = SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    states = {key: ocp.args.StandardRestore(fallback_sharding=cpu) for key in keys[:2]}
    with open_reader(input_checkpoint_path, keys) as reader:
        step = found_step(reader, restore_step, keys)
        source = saved_layout(reader, step, embedding_spec_key)
        restored = reader.restore(step, args=ocp.args.Composite(**states))
    model_state, optimizer_state = restored[model_key], restored[optimizer_key]
    tables = find_tables(model_state)
    target = source
    if target_topology is None:
        new = whole_tables(source, tables)
    else:
        mesh = (target_topology.num_global_devices, target_topology.num_sc_per_device)
        target = (
            source.for_mesh(*mesh, target_batch_size)
            if target_feature_specs is None
            else SavedLayout.of(target_feature_specs, *mesh)
        )
        new = moved(source, tables, target)
    tables.clear()
    tables.update(new)

    options = ocp.CheckpointManagerOptions(create=True)
    with open_manager(output_checkpoint_path, options, keys) as writer:
        items = {
            model_key: ocp.args.StandardSave(model_state),
            optimizer_key: ocp.args.StandardSave(optimizer_state),
            embedding_spec_key: ocp.args.JsonSave(target.to_json()),
        }
        writer.save(step if save_step is None else save_step, args=ocp.args.Composite(**items))
        writer.wait_until_finished()
    _log.info("converted checkpoint %d of %s to %s", step, reader.directory, output_checkpoint_path)
