"""Which checkpoint of a run is meant: the newest, the best, or that of a step."""

from __future__ import annotations

from pathlib import Path

from orchestrator.config import RunConfig
from orchestrator.errors import ConfigError
from orchestrator.policies import best_steps
from orchestrator.run_folder import read_history
from orchestrator.shared_storage import storage_wanted

__all__ = ["chosen_step"]


def chosen_step(run_folder: Path, config: RunConfig, wanted: str | int) -> int:
    """The step of the checkpoint that is meant.

    Args:
        run_folder: The run's folder.
        config: Its configuration: ``checkpoints.best_metric`` and ``best_mode`` say what is best.
        wanted: ``newest``, ``best``, or a step.

    Raises:
        ConfigError: The run has no such checkpoint; the message names those it has.
        StorageUnavailable: The checkpoints cannot be listed.
    """
    from workers.checkpoint import committed_steps

    with storage_wanted(run_folder.absolute(), "try again"):
        steps = committed_steps(run_folder / "checkpoints")
    held = f"'{run_folder}' holds those of the steps {', '.join(map(str, steps)) or 'none'}"
    if not steps:
        raise ConfigError(f"'{run_folder}' holds no checkpoint: let the run save one first")
    if isinstance(wanted, int):
        if wanted not in steps:
            raise ConfigError(f"step: there is no checkpoint of step {wanted}; {held}")
        return wanted
    match wanted:
        case "newest":
            return steps[-1]
        case "best":
            known = read_history(run_folder / "events.jsonl").evaluations
            evaluated = {step: known[step] for step in steps if step in known}
            settings = config.checkpoints
            best = best_steps(evaluated, settings.best_metric, settings.best_mode, 1)
            if not best:
                raise ConfigError(
                    f"step: no checkpoint was evaluated, so none is known to be best; {held}"
                )
            return best[0]
    raise ConfigError(f"step is '{wanted}'; give newest, best, or the number of a step; {held}")
