"""The batches that a host trains on next, made ahead of their use."""

from __future__ import annotations

from collections.abc import Mapping

import jax

from workers.agreed_batches import AgreedBatches
from workers.batches import BatchSource, ReadyBatch
from workers.phases import Phases
from workers.protocol import Squeezed

__all__ = ["Feed"]


class Feed:
    """Training batches in order, from any step on.

    Args:
        phases: Told when a batch is waited for.
    """

    def __init__(self, phases: Phases) -> None:
        self._phases = phases
        self._batches: AgreedBatches | None = None
        self._step = -1

    def start(self, source: BatchSource, first: int, last: int) -> None:
        """Begin to make the batches of the steps [first, last)."""
        self.close()
        self._batches, self._step = source.start(first, last, trains=True), first

    def stands_at(self, step: int) -> bool:
        """Whether the next batch is that of this step."""
        return self._batches is not None and self._step == step

    def take(self) -> ReadyBatch:
        """The next batch; waits for it."""
        if self._batches is None:
            raise RuntimeError("no batches are being made")
        with self._phases.within("waiting_for_data"):
            ready = next(self._batches)
        self._step = ready.step + 1
        return ready

    def tell(self, agreed: jax.Array | None) -> None:
        """See ``AgreedBatches.tell``."""
        if self._batches is not None:
            self._batches.tell(agreed)

    def take_seconds(self) -> Mapping[str, float]:
        """Busy seconds of every stage since the last call."""
        return {} if self._batches is None else self._batches.take_seconds()

    def take_squeezed(self) -> Squeezed:
        """See ``AgreedBatches.take_squeezed``."""
        return Squeezed() if self._batches is None else self._batches.take_squeezed()

    def close(self) -> None:
        """Stop, and forget what was made."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None
