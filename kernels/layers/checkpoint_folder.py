"""The folder of a checkpoint: its items, opening it, and finding the tables in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from kernels.errors import SpecError
from kernels.layers.checkpoint_tables import SavedLayout

__all__ = [
    "TABLES",
    "PathLike",
    "create_checkpoint_manager",
    "decompress_checkpoint",
    "find_tables",
    "found_step",
    "open_manager",
    "open_reader",
    "saved_layout",
]

TABLES = "embedding_table"
"""The layer's attribute that holds the variables."""

type PathLike = str | os.PathLike[str]


def decompress_checkpoint(checkpoint_path: str) -> str:
    """Unpack an archive (``.tgz``) below the folder ``$TEST_UNDECLARED_OUTPUTS_DIR``.

    Args:
        checkpoint_path: The archive.

    Returns:
        The new folder, ``decompressed_checkpoints/<name of the archive>``.

    Raises:
        SpecError: If the environment variable is not set.
    """
    outputs = os.environ.get("TEST_UNDECLARED_OUTPUTS_DIR")
    if not outputs:
        raise SpecError(
            "TEST_UNDECLARED_OUTPUTS_DIR environment variable is not set; set it to the folder to "
            f"unpack '{checkpoint_path}' below"
        )
    name = Path(checkpoint_path).name.removesuffix(".tgz")
    folder = Path(outputs) / "decompressed_checkpoints" / name
    folder.mkdir(parents=True, exist_ok=True)
    shutil.unpack_archive(checkpoint_path, folder, filter="data")
    return str(folder)


def create_checkpoint_manager(
    *,
    cp_path: PathLike,
    cp_options: ocp.CheckpointManagerOptions,
    model_key: str = "model",
    optimizer_key: str = "optimizer",
    embedding_spec_key: str = "embedding_spec",
) -> ocp.CheckpointManager:
    """An Orbax checkpoint manager for the items of `save_checkpoint`.

    Args:
        cp_path: Folder of all checkpoints, local or a URL that Orbax knows (``gs://...``).
        cp_options: Options of the manager.
        model_key: Name of the model's state.
        optimizer_key: Name of the optimizer's state.
        embedding_spec_key: Name of the embedding spec.
    """
    registry = ocp.DefaultCheckpointHandlerRegistry()
    states, specs = ocp.StandardCheckpointHandler(), ocp.JsonCheckpointHandler()
    for key in (model_key, optimizer_key):
        registry.add(key, ocp.args.StandardSave, states)
        registry.add(key, ocp.args.StandardRestore, states)
    registry.add(embedding_spec_key, ocp.args.JsonSave, specs)
    registry.add(embedding_spec_key, ocp.args.JsonRestore, specs)
    folder = str(cp_path)
    return ocp.CheckpointManager(
        folder if "://" in folder else Path(folder).absolute(),
        options=cp_options,
        handler_registry=registry,
    )


def open_manager(
    path: PathLike, options: ocp.CheckpointManagerOptions, keys: tuple[str, str, str]
) -> ocp.CheckpointManager:
    """`create_checkpoint_manager` with the names of the three items."""
    return create_checkpoint_manager(
        cp_path=path,
        cp_options=options,
        model_key=keys[0],
        optimizer_key=keys[1],
        embedding_spec_key=keys[2],
    )


def open_reader(path: PathLike, keys: tuple[str, str, str]) -> ocp.CheckpointManager:
    """A manager that only reads."""
    return open_manager(path, ocp.CheckpointManagerOptions(read_only=True), keys)


def found_step(manager: ocp.CheckpointManager, step: int | None, keys: Iterable[str]) -> int:
    """The checkpoint asked for, or the newest, checked to hold all items.

    Raises:
        SpecError: If there is none, or it lacks an item.
    """
    found = manager.latest_step() if step is None else step
    if found is None:
        raise SpecError(f"No checkpoints found in {manager.directory}; give the folder of some")
    if found not in manager.all_steps():
        raise SpecError(
            f"Step {found} not found in checkpoint directory {manager.directory}; it has "
            f"{list(manager.all_steps())}"
        )
    metadata = manager.item_metadata(found)
    for key in keys:
        if metadata is None or key not in metadata:
            raise SpecError(
                f'No "{key}" found in checkpoint metadata of step {found} in {manager.directory}; '
                "pass the keys it was saved with"
            )
    return found


def saved_layout(manager: ocp.CheckpointManager, step: int, key: str) -> SavedLayout:
    """How the tables of a checkpoint lie."""
    restored = manager.restore(step, args=ocp.args.Composite(**{key: ocp.args.JsonRestore()}))
    return SavedLayout.from_json(restored[key])


def find_tables(state: Any, name: str | None = None) -> Any:
    """The variables by stack, in a state as saved: mappings all the way.

    Args:
        state: The model's state, or its metadata.
        name: The attribute that is the layer; None looks for it.

    Raises:
        SpecError: If there are none.
    """
    if name is not None and isinstance(state, Mapping):
        state = {name: state.get(name)}
    found = _search(state)
    if found is None:
        raise SpecError(
            f"Could not find '{TABLES}' in the restored model state; use a checkpoint of a model "
            "with the layer"
        )
    return found


def _search(state: Any) -> Any:
    if not isinstance(state, Mapping):
        return None
    if isinstance(found := state.get(TABLES), Mapping):
        return found.get("value", found)
    return next((found for value in state.values() if (found := _search(value)) is not None), None)
