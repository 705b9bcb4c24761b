"""A host's batches in order, each with as many minibatches as all hosts agreed on.

What the hosts say to each other, and when, is told in ``workers.minibatches``. All of them take
the same batches in the same order, and between two of them run the same steps; so all know alike
which agreements are still missing, and no host computes alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import jax
import numpy as np
from jax.sharding import Mesh

from workers.minibatches import AHEAD, agree, cuts_of, on_devices
from workers.phases import Phases
from workers.pipeline import Pipeline
from workers.protocol import Squeezed

if TYPE_CHECKING:
    from workers.batches import ReadyBatch

__all__ = ["AgreedBatches"]


class AgreedBatches:
    """Iterates over a pipeline of ``ReadyBatch``; close it at the end.

    Without minibatching it hands batches through. With it, it looks `AHEAD` batches ahead.

    Args:
        pipeline: Makes the batches, with the minibatches that this host needs.
        mesh: All devices.
        again: Makes a batch once more with other cuts; None without minibatching.
        rides: Whether the batches are trained on: each then carries the cuts of a later one, and
            `tell` is called with what the step brought back.
        phases: Told when other hosts are waited for, and not data; None tells nobody.

    ``next`` raises what the pipeline raised, in its turn, and `kernels.LimitsExceeded` if a batch
    does not fit once it is cut as others need it.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        mesh: Mesh,
        again: Callable[[ReadyBatch, int], ReadyBatch] | None,
        *,
        rides: bool,
        phases: Phases | None = None,
    ) -> None:
        self._phases = phases
        self._pipeline, self._mesh, self._again, self._rides = pipeline, mesh, again, rides
        self._window: deque[ReadyBatch] = deque()
        self._end: Exception | None = None
        self._agreed: dict[int, int | jax.Array] = {}
        self._step = -1
        self._squeezed = Squeezed()

    def __iter__(self) -> AgreedBatches:
        return self

    def __next__(self) -> ReadyBatch:
        ready = next(self._pipeline) if self._again is None else self._next_agreed(self._again)
        self._step = ready.step
        self._squeezed = self._squeezed.then(ready.squeezed)
        return ready

    def tell(self, agreed: jax.Array | None) -> None:
        """What came out of the step that was just run on the last batch.

        Args:
            agreed: ``StepOutcome.agreed``; need not be there yet.
        """
        if agreed is not None:
            self._agreed[self._step + AHEAD] = agreed

    def take_seconds(self) -> dict[str, float]:
        """Busy seconds of every stage since the last call."""
        return self._pipeline.take_seconds()

    def take_squeezed(self) -> Squeezed:
        """How batches that exceeded limits were treated since the last call, on this host."""
        taken, self._squeezed = self._squeezed, Squeezed()
        return taken

    def close(self) -> None:
        """Stop the pipeline."""
        self._pipeline.close()

    def _next_agreed(self, again: Callable[[ReadyBatch, int], ReadyBatch]) -> ReadyBatch:
        self._look_ahead()
        if self._end is not None and not self._window:
            raise self._end
        ready = self._window.popleft()
        with self._together():
            if ready.step not in self._agreed:
                self._agree_now(ready)
            agreed = self._agreed.pop(ready.step)
            cuts = agreed if isinstance(agreed, int) else cuts_of(np.asarray(agreed))
        if cuts != ready.cuts:
            ready = again(ready, cuts)
        if not self._rides:
            return ready
        later = self._window[AHEAD - 1].cuts if len(self._window) >= AHEAD else 0
        return ready.carrying(on_devices((later,), self._mesh))

    def _together(self) -> AbstractContextManager[None]:
        """While this host may wait for the others."""
        if self._phases is None:
            return nullcontext()
        return self._phases.within("training" if self._rides else "evaluating")

    def _look_ahead(self) -> None:
        while self._end is None and len(self._window) <= AHEAD:
            try:
                self._window.append(next(self._pipeline))
            except Exception as error:
                self._end = error  # in its turn

    def _agree_now(self, ready: ReadyBatch) -> None:
        """For a batch of which nothing rode along, and for those after it: also on other hosts."""
        cuts = [0] * (AHEAD + 1)
        for batch in (ready, *self._window):
            cuts[batch.step - ready.step] = batch.cuts
        for place, agreed in enumerate(agree(cuts, self._mesh)):
            self._agreed.setdefault(ready.step + place, agreed)
