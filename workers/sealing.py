"""The folder a checkpoint is written into until it is whole and has its checksums."""

from __future__ import annotations

import asyncio
from pathlib import Path

from orbax.checkpoint.path import atomicity

from workers.checksums import write_checksums

__all__ = ["SealedFolder"]


class SealedFolder(atomicity.AtomicRenameTemporaryPath):
    """Orbax's temporary folder, which writes checksums before it gets its final name.

    When every host has written its part, and Orbax has completed the folder, it is renamed twice:
    to another temporary name, under which the checksums are written, and from there to its final
    one. A process that is killed at any point of this leaves only temporary names, which Orbax
    removes when it starts anew. One host does this, on the thread that saves in the background.

    Orbax uses the same class for the parts of a checkpoint, whose names are no numbers: they get no
    checksums of their own.
    """

    async def finalize(self) -> None:
        """Write the checksums and commit."""
        final = self._final_path
        if not final.name.isdecimal():
            await super().finalize()
            return
        unsealed = final.parent / f"{self.get().name}-unsealed"
        self._final_path = unsealed
        try:
            await super().finalize()
        finally:
            self._final_path = final
        await asyncio.to_thread(write_checksums, Path(unsealed))
        await asyncio.to_thread(Path(unsealed).rename, Path(final))
