"""Traces of JAX's profiler: what a host and its devices do in some steps of the run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workers.phases import Phases

__all__ = ["Profile", "Tracer"]


@dataclass(frozen=True)
class Profile:
    """Which steps are traced, and where."""

    first: int
    last: int
    """One past the last step."""
    hosts: tuple[int, ...] = (0,)
    """Ranks of the hosts that trace."""


class Tracer:
    """Traces the steps of one host that are asked for.

    What was dispatched before the first of them has ended when the trace begins, and the last of
    them when it ends, so it holds whole steps. Each trace gets a folder of its own, by time,
    below ``profile/host-<rank>/plugins/profile`` in the run's folder, as TensorBoard looks for it.

    Args:
        profile: What to trace; None traces nothing.
        rank: This host.
        run_folder: Folder of the run.
        phases: Told while a trace is written.
    """

    def __init__(self, profile: Profile | None, rank: int, run_folder: str, phases: Phases) -> None:
        self._profile = profile if profile is not None and rank in profile.hosts else None
        self._folder = Path(run_folder) / "profile" / f"host-{rank}"
        self._phases = phases
        self._tracing = False

    def run[**P, T](
        self, step: int, function: Callable[P, T], *arguments: P.args, **named: P.kwargs
    ) -> T:
        """Call ``function``, which is a step of the run, and trace it if that is asked for."""
        profile = self._profile
        if profile is None or not profile.first <= step < profile.last:
            self.stop()
            return function(*arguments, **named)
        import jax

        if not self._tracing:
            jax.block_until_ready((arguments, named))
            self._start()
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            result = function(*arguments, **named)
        if step == profile.last - 1:
            jax.block_until_ready(result)
            self.stop()
        return result

    def stop(self) -> None:
        """Write the trace, if there is one; nothing else happens meanwhile."""
        if self._tracing:
            import jax

            self._tracing = False
            with self._phases.within("profiling"):
                jax.profiler.stop_trace()

    def _start(self) -> None:
        import jax

        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # every call of Python would drown the rest
        with self._phases.within("profiling"):
            jax.profiler.start_trace(str(self._folder), profiler_options=options)
        self._tracing = True
