"""Checkpoints through Orbax: asynchronous, and either committed or invisible.

    checkpoints/<step>/tables/          every table stack with its slot variables, by all hosts
                       dense/           step, model parameters, optimizer state
                       about/           JSON: plan, program fingerprint, step
                       checksums.json   size and CRC-32 of every other file

A checkpoint can be restored under any plan of the same tables: on other hosts, devices and
SparseCores, and in other stacks.

Orbax writes into a temporary folder, which is renamed when all hosts are done and have written the
checksums of their parts (``workers.sealing``). So a folder whose name is a number is complete. What
is restored is compared with the checksums first.

On CPUs the caller of a save waits for a copy of the state and no more; all else is done by a thread
of its own. Hosts meet in it through the coordination service, never through their devices: those
are training.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from kernels import EmbeddingPlan
from workers.checksums import verify_files
from workers.errors import CheckpointError, PlanMismatch
from workers.relayout import read_tables
from workers.sealing import SealedFolder, seal
from workers.snapshots import Snapshots
from workers.training import TrainState

__all__ = ["About", "Checkpoints", "committed_steps", "read_checkpoint"]

_LOGGER = logging.getLogger(__name__)

SAVE_TIMEOUT_SECONDS = 600
"""Seconds the hosts wait for each other while a checkpoint is written."""

CHUNK_BYTES = 16 << 20
"""Most bytes of an array that are stored, and so must be read, as one piece."""


def committed_steps(folder: Path, *, missing_ok: bool = True) -> tuple[int, ...]:
    """Steps of the committed checkpoints in a folder, ascending.

    Args:
        folder: The folder.
        missing_ok: Whether none are found where there is no folder. One that the folder above
            names must be there in any case: storage that is in trouble may hide it.

    Raises:
        OSError: The folder cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.is_dir()]
    except FileNotFoundError:
        above = folder.absolute().parent
        named = above.is_dir() and any(entry.name == folder.name for entry in above.iterdir())
        if named or not missing_ok:
            raise
        return ()
    return tuple(sorted(int(name) for name in names if name.isdecimal()))


FILE_BYTES = 32 << 20, 1 << 30
"""About the least and most bytes of a file with parts of tables. So much is held back in memory by
each writer before it is written: the library's own choice, 2 GiB, would often hold a second copy of
a host's part of the tables."""

FILES_PER_HOST = 32
"""Files a host's part of the tables goes to, where that is within these bounds."""


@dataclass(frozen=True)
class About:
    """What a checkpoint says of itself."""

    plan: EmbeddingPlan
    program: str

    def to_json(self, step: int) -> dict[str, Any]:
        """As saved."""
        return {"step": step, "plan": self.plan.to_json(), "program": self.program}


class Checkpoints:
    """Saves and restores train states; used by all hosts alike, each calling at the same steps.

    It deletes nothing: which checkpoints are kept is for the driver to say.

    Args:
        folder: Folder of all checkpoints of a run.
        about: Plan and program of the run.
    """

    def __init__(self, folder: Path, about: About) -> None:
        self._folder = folder.absolute()
        self._about = about
        self._snapshots = Snapshots()
        self._host, hosts = jax.process_index(), jax.process_count()
        self._hosts = frozenset(range(hosts))
        self._saving: Future[None] | None = None
        self._attempts = 0
        self._saver = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._folder.mkdir(parents=True, exist_ok=True)
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                create=False,  # it would be refused together with the next line
                multiprocessing_options=ocp.options.MultiprocessingOptions(
                    active_processes=set(self._hosts)
                ),
                cleanup_tmp_directories=True,
                temporary_path_class=SealedFolder,
                async_options=ocp.AsyncOptions(timeout_secs=SAVE_TIMEOUT_SECONDS),
            ),
        )
        self._committed = set(self._manager.all_steps())

    def save(self, step: int, state: TrainState) -> None:
        """Start saving the state after ``step`` steps; returns once it is copied off the devices.

        Waits for a save still under way. Does nothing if this step is committed. A step whose save
        has failed is saved anew; all hosts must have been told of the failure.

        Raises:
            Exception: The save before has failed.
        """
        self.wait()
        if step in self._committed:
            return
        if step in self._manager.all_steps():
            self._manager.reload()  # It counts a step as soon as its save begins.
        self._attempts += 1
        copy = self._snapshots.take(state)
        start = functools.partial(
            self._manager.save,
            step,
            args=ocp.args.Composite(
                tables=ocp.args.PyTreeSave(
                    copy.tables,
                    save_args=jax.tree.map(
                        lambda _: ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES), copy.tables
                    ),
                    ocdbt_target_data_file_size=_file_bytes(copy.tables),
                ),
                dense=ocp.args.StandardSave(_dense(copy)),
                about=ocp.args.JsonSave(self._about.to_json(step)),
            ),
            force=True,
        )
        leaves = zip(jax.tree.leaves(state), jax.tree.leaves(copy), strict=True)
        if any(own is original for original, own in leaves):
            # What is not copied must be off the devices before the next step gives it away.
            start()
            start = None
        self._saving = self._saver.submit(self._write, step, self._attempts, start)

    def _write(self, step: int, attempt: int, start: Callable[[], Any] | None) -> None:
        """Write a checkpoint and commit it, on the thread for that."""
        if start is not None:
            start()
        self._manager.wait_until_finished()
        _give_back_memory()

        def meet(point: str) -> None:
            ocp.multihost.sync_global_processes(
                f"checkpoint-{step}-{attempt}-{point}",  # a name serves once
                timeout=SAVE_TIMEOUT_SECONDS,
                processes=set(self._hosts),
            )

        seal(self._folder / str(step), self._host, len(self._hosts), meet)
        self._committed.add(step)

    def reserve(self, state: TrainState) -> None:
        """Get host memory for saves of such a state ready, in the background."""
        self._snapshots.reserve(state)

    def restore(self, step: int, like: TrainState, fresh: Callable[[], TrainState]) -> TrainState:
        """Load a committed checkpoint.

        Args:
            step: The checkpoint's.
            like: Shapes and layouts: ``workers.training.abstract_state``.
            fresh: Makes the state a run begins with; called only when the tables were saved in
                another layout than they are wanted in.

        Raises:
            CheckpointError: A file is damaged or missing, or its content cannot be read. Errors of
                the storage or of other hosts are let through: they may pass. Each host finds
                damage in its share of the files, so the others may be left waiting for it.
            PlanMismatch: It holds other tables, or was saved by another program.
        """
        self._verify(step)
        with _reading(step, self._folder):
            about = self._manager.restore(
                step, args=ocp.args.Composite(about=ocp.args.JsonRestore())
            )["about"]
        saved = self._saved_plan(step, about)
        dense_like = ocp.args.StandardRestore(_dense(like))
        if _layout(saved) == _layout(self._about.plan):
            with _reading(step, self._folder):
                restored = self._manager.restore(
                    step,
                    args=ocp.args.Composite(
                        tables=ocp.args.PyTreeRestore(
                            like.tables,
                            # As the train step takes them: on TPUs it refuses any other layout.
                            ocp.checkpoint_utils.construct_restore_args(
                                like.tables, support_layout=True
                            ),
                        ),
                        dense=dense_like,
                    ),
                )
            tables = dict(restored["tables"])
        else:
            begin = dict(fresh().tables)  # held by no one else
            with _reading(step, self._folder):
                restored = self._manager.restore(step, args=ocp.args.Composite(dense=dense_like))
                folder = self._folder / str(step) / "tables"
                tables = read_tables(folder, saved, self._about.plan, begin)
        dense = restored["dense"]
        return TrainState(dense["step"], tables, dense["parameters"], dense["optimizer_state"])

    def check(self) -> None:
        """Raise what a save has failed with meanwhile, if one has; waits for nothing.

        Raises:
            Exception: It has failed.
        """
        if self._saving is not None and self._saving.done():
            self.wait()

    def wait(self) -> None:
        """Wait until the save under way is committed.

        Raises:
            Exception: It has failed.
        """
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

    def close(self) -> None:
        """Wait for pending saves and release everything.

        Raises:
            Exception: A save has failed.
        """
        try:
            self.wait()
        finally:
            self._saver.shutdown()
            self._manager.close()
            self._snapshots.close()

    def _verify(self, step: int) -> None:
        """Compare the files with their checksums; every host reads a share of them."""
        share, shares = jax.process_index(), jax.process_count()
        if not verify_files(self._folder / str(step), share, shares) and share == 0:
            _LOGGER.warning(
                "checkpoint %d in '%s' was saved without checksums: it is restored unchecked",
                step,
                self._folder,
            )

    def _saved_plan(self, step: int, about: dict[str, Any]) -> EmbeddingPlan:
        """The plan a checkpoint was saved under, which must be of the same program and tables."""
        where = f"checkpoint {step} in '{self._folder}'"
        if about["program"] != self._about.program:
            raise PlanMismatch(
                f"{where} was saved by another program (fingerprint {about['program']}, now "
                f"{self._about.program}); use the program it was made with, or a new run folder"
            )
        saved = EmbeddingPlan.from_json(about["plan"])
        now = {table.name: table for table in self._about.plan.tables}
        before = {table.name: table for table in saved.tables}
        if differing := sorted(
            name for name in now.keys() | before.keys() if now.get(name) != before.get(name)
        ):
            name = differing[0]
            raise PlanMismatch(
                f"{where} holds other tables: '{name}' was {before.get(name)} and is now "
                f"{now.get(name)}; use the settings it was made with, or a new run folder"
            )
        return saved


def _give_back_memory() -> None:
    """Return what the writers have freed to the system, where the C library can (glibc).

    They free it in many pieces and on many threads, so by itself little is used again, and every
    save would take some more.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _layout(plan: EmbeddingPlan) -> Any:
    """All of a plan that decides where a row is stored: limits may change under a checkpoint."""
    stacks = [(stack.name, stack.tables, stack.vocab_size, stack.width) for stack in plan.stacks]
    return plan.topology.devices, plan.topology.sparsecores_per_device, stacks


def _file_bytes(tables: Any) -> int:
    """Size of files: a fixed part of what this host writes, within bounds."""
    own = sum(array.nbytes for array in jax.tree.leaves(tables)) // jax.process_count()
    least, most = FILE_BYTES
    return min(most, max(least, own // FILES_PER_HOST))


def _dense(state: TrainState) -> dict[str, Any]:
    return {
        "step": state.step,
        "parameters": state.parameters,
        "optimizer_state": state.optimizer_state,
    }


@contextmanager
def _reading(step: int, folder: Path) -> Iterator[None]:
    """Turn what unreadable content raises into CheckpointError."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        if not isinstance(error, FileNotFoundError):
            raise
        raise CheckpointError(f"checkpoint {step} in '{folder}' is incomplete: {error}") from error
    except Exception as error:
        raise CheckpointError(f"checkpoint {step} in '{folder}' cannot be read: {error}") from error


def read_checkpoint(folder: Path, step: int) -> dict[str, np.ndarray]:
    """All arrays of a committed checkpoint on one machine, by their path in it.

    For exports and comparisons: needs neither the hosts nor the mesh it was saved with, and memory
    for everything in it.

    Raises:
        CheckpointError: It is damaged, or cannot be read.
    """
    verify_files(folder.absolute() / str(step))
    arrays = {}
    for part in ("tables", "dense"):
        place = folder.absolute() / str(step) / part
        try:
            with ocp.PyTreeCheckpointer() as reader:
                tree = reader.metadata(place).item_metadata.tree
                numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
                restored = reader.restore(place, args=ocp.args.PyTreeRestore(restore_args=numpy))
        except Exception as error:
            raise CheckpointError(f"checkpoint '{place}' cannot be read: {error}") from error
        for path, leaf in jax.tree_util.tree_leaves_with_path(restored):
            arrays[part + jax.tree_util.keystr(path)] = np.asarray(leaf)
    return arrays
