"""What a host notes while it runs a lease: losses, rows, and steps that are not finite.

What a step says of itself is looked at when the next one has been dispatched, and at the lease's
end: by then it is ready anyway, so nobody waits for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from kernels import FeatureSpec
from workers.batches import ReadyBatch
from workers.errors import NonFiniteLoss
from workers.protocol import Observed, SkippedStep, merge_observed
from workers.training import StepOutcome

__all__ = ["LeaseNotes"]

_SHOWN = 4


class LeaseNotes:
    """Notes of one lease.

    Args:
        specs: Feature specs by name.
        skips: Whether a step in which something is not finite was left without effect; else it is
            an error.

    Attributes:
        examples: Real samples trained on, over all hosts.
        observed: Largest values by table stack.
        skipped: Steps that had no effect.
    """

    def __init__(self, specs: Mapping[str, FeatureSpec], *, skips: bool) -> None:
        self._specs = specs
        self._skips = skips
        self._losses: list[float] = []
        self._newest: tuple[int, StepOutcome] | None = None
        self._rows: list[tuple[int, np.ndarray]] = []
        self.examples = 0
        self.observed: dict[str, Observed] = {}
        self.skipped: list[SkippedStep] = []

    def trained(self, ready: ReadyBatch, outcome: StepOutcome) -> None:
        """A step was dispatched; waits for the one before it, and looks at that.

        Raises:
            NonFiniteLoss: Something was not finite there, and steps are not skipped for it.
        """
        self._look_at_newest()
        self._newest = ready.step, outcome
        self.examples += ready.global_examples
        self.observed = merge_observed(self.observed, ready.observed)
        self._rows.append((ready.step, ready.rows))

    def passed_over(self) -> None:
        """A batch was left out as the driver said."""
        self._look_at_newest()
        self._losses.append(float("nan"))

    def losses(self) -> tuple[float, ...]:
        """The loss of every step so far; waits for the newest.

        Raises:
            NonFiniteLoss: See ``trained``.
        """
        self._look_at_newest()
        return tuple(self._losses)

    def write_rows(self, file: Path) -> None:
        """Append the row ids of every step, one JSON object a line."""
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = [
            json.dumps({"step": step, "rows": rows.tolist()}) + "\n" for step, rows in self._rows
        ]
        with file.open("a") as out:
            out.write("".join(lines))

    def _look_at_newest(self) -> None:
        if self._newest is None:
            return
        (step, outcome), self._newest = self._newest, None
        loss, flags = jax.device_get((outcome.loss, outcome.non_finite))
        self._losses.append(float(loss))
        if not flags.any():
            return
        reason = non_finite_words(float(loss), flags, self._specs)
        if not self._skips:
            raise NonFiniteLoss(
                f"step {step}: {reason}; lower the learning rates, or look at the batch's values "
                "(record_rows=true names its rows); failures.nan says what a run does about it",
                step,
            )
        self.skipped.append(SkippedStep(step, reason))


def non_finite_words(loss: float, flags: np.ndarray, specs: Mapping[str, FeatureSpec]) -> str:
    """What is not finite, in words.

    Args:
        loss: The step's loss.
        flags: See ``StepOutcome.non_finite``.
        specs: Feature specs by name.

    Example:
        >>> non_finite_words(float("nan"), np.array([1, 0]), {})
        'the loss is nan'
    """
    parts = []
    if flags[0]:
        parts.append(f"the loss is {loss}")
    if flags[1]:
        parts.append("gradients of the model's parameters are not finite")
    names = [name for name, flag in zip(sorted(specs), flags[2:], strict=True) if flag]
    if names:
        features = [f"'{name}' (table '{specs[name].table_spec.name}')" for name in names[:_SHOWN]]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        parts.append(
            f"activations or gradients are not finite for features {', '.join(features)}{more}"
        )
    return "; ".join(parts)
