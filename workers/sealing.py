"""The folder a checkpoint is written into until it is whole and has its checksums."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orbax.checkpoint.path import atomicity

from workers.checksums import join_parts, write_part

__all__ = ["SealedFolder", "seal"]


class SealedFolder(atomicity.AtomicRenameTemporaryPath):
    """Orbax's temporary folder, which does not get its final name from Orbax, but from ``seal``.

    When every host has written its part, and Orbax has completed the folder, it is renamed to
    another temporary name. A process that is killed before ``seal`` is done leaves only temporary
    names, which Orbax removes when it starts anew.

    Orbax uses the same class for the parts of a checkpoint, whose names are no numbers: they get no
    checksums of their own, and their final names at once.
    """

    async def finalize(self) -> None:
        """Complete the folder."""
        final = self._final_path
        if final.name.isdecimal():
            self._final_path = _unsealed(final)
            # Left by a save of the same step that was never sealed; no folder takes its place.
            await asyncio.to_thread(shutil.rmtree, self._final_path, ignore_errors=True)
        try:
            await super().finalize()
        finally:
            self._final_path = final


def seal(final: Path, host: int, hosts: int, meet: Callable[[str], None]) -> None:
    """Write checksums and commit; called by all hosts when Orbax has completed the folder.

    Every host reads what it has written itself, which it mostly finds in its memory.

    Args:
        final: Folder of the checkpoint: its final name.
        host: Number of this host.
        hosts: Number of hosts.
        meet: Waits until all hosts have come to the point of this name.

    Raises:
        CheckpointError: A file is seen by the first host only.
    """
    folder = _unsealed(final)
    write_part(folder, host, hosts)
    meet("summed")
    if host == 0:
        join_parts(folder, hosts)
        folder.rename(final)
    meet("sealed")


def _unsealed(final: Any) -> Any:
    """The name between Orbax's temporary one and the final one."""
    return final.parent / f"{final.name}{atomicity.TMP_DIR_SUFFIX}-unsealed"
