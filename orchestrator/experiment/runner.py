"""An experiment from its settings to its results: starts what is due and what there is room for."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.config import RunConfig
from orchestrator.experiment.capacity import demand_of, has_room, local_cluster_for
from orchestrator.experiment.processes import Ended, Processes
from orchestrator.experiment.records import ExperimentFolder, TrialRecord
from orchestrator.experiment.results import Results, results_of
from orchestrator.experiment.rungs import due, rung_steps
from orchestrator.experiment.settings import ExperimentSettings
from orchestrator.experiment.space import Task, config_of, settings_of
from orchestrator.experiment.trial import in_use, read_trial
from orchestrator.private_folders import private_folder
from orchestrator.ray_session import RaySession
from orchestrator.signals import stop_on_signals

__all__ = ["Experiment", "train_command"]

_POLL_SECONDS = 0.2


def train_command(config: Path, run_folder: Path) -> list[str]:
    """The command of a trial: ``train`` with a configuration file, which goes on with its run."""
    module = "orchestrator.trial_process"
    words = [sys.executable, "-m", module, str(os.getpid())]
    return [*words, "train", str(config), "--run-dir", str(run_folder), "--resume"]


@dataclass
class _Ground:
    """Where the trials of an experiment run, and those that do."""

    folder: ExperimentFolder
    processes: Processes
    private: Path
    """Folder of their configuration files, which may have secrets in them."""
    environment: Mapping[str, str]
    capacity: Mapping[str, float]
    running: dict[str, tuple[Task, Mapping[str, float]]] = field(default_factory=dict)
    """By name of the trial: what it is to do, and what it takes of the cluster."""


class Experiment:
    """Runs the trials of an experiment.

    Every trial is a ``train`` command in a process and a folder of its own, on one Ray cluster that
    all share: the one that is named, or a local one that is started for them.

    Args:
        settings: What is tried.
        folder: The experiment's folder.
        resume: Go on with the experiment in the folder: trials that have ended are kept, those that
            were interrupted go on from their checkpoints.
        retry_failed: With ``resume``: try again the failed trials that nothing was decided on yet,
            which are those of the newest rung.
        command: Makes the command of a trial from its configuration file and its run's folder.
        cluster: Gives a trial's environment and the cluster's resources; None takes Ray's.
        say: Takes a line to show.

    Raises:
        ConfigError: A key or value of a trial's configuration cannot be used. Nothing has started.
        RunFolderError: The folder cannot be used.

    Example:
        >>> settings = load_experiment(Path("widths.yaml"))         # doctest: +SKIP
        >>> results = Experiment(settings, Path("experiments/widths")).run()
    """

    def __init__(
        self,
        settings: ExperimentSettings,
        folder: Path,
        *,
        resume: bool = False,
        retry_failed: bool = False,
        command: Callable[[Path, Path], Sequence[str]] = train_command,
        cluster: tuple[Mapping[str, str], Mapping[str, float]] | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        self.settings = settings
        self.tried = settings_of(settings)
        self._configs = [  # each setting is checked before any trial is started
            config_of(settings, setting, settings.seeds[0], self._steps(0))
            for setting in self.tried
        ]
        self._path = folder
        self._resume = resume
        self._retry_failed = retry_failed
        self._command = command
        self._cluster = cluster
        self._say = say
        self._stopping = False
        self._interrupted: set[Task] = set()
        self._records: dict[Task, TrialRecord] = {}

    def run(self) -> Results:
        """Run what is left, and write the results.

        In the main thread, the first SIGINT (Ctrl-C) or SIGTERM lets all trials save and leave; a
        second one kills them and raises ``KeyboardInterrupt``.

        Raises:
            ClusterError: Ray cannot be reached or started.
        """
        with ExperimentFolder(self._path, resume=self._resume) as folder:
            folder.keep(self.settings, self._configs[0])
            self._records = folder.records()
            if self._retry_failed:
                self._forget_failed()
            if self._due():
                self._lead(folder)
            results = self._results(folder)
            results.write(folder.path)
        return results

    def stop(self) -> None:
        """Let all running trials save and leave, and start no more."""
        self._stopping = True

    def _lead(self, folder: ExperimentFolder) -> None:
        with ExitStack() as stack:
            environment, capacity = self._cluster or self._ray(stack)
            private = stack.enter_context(private_folder())
            processes = Processes(self.settings.stop_grace)
            stack.callback(processes.kill)
            # Only now, as Ray takes SIGTERM for itself when it is connected to.
            stack.enter_context(stop_on_signals(lambda number: self.stop()))
            ground = _Ground(folder, processes, private, environment, capacity)
            # A killed experiment's trials may still be saving when it is resumed.
            patience = time.monotonic() + self.settings.stop_grace
            while True:
                for ended in processes.poll():
                    task, _ = ground.running.pop(ended.name)
                    self._end(folder, task, ended)
                waiting = False
                if self._stopping:
                    for name in processes.names:
                        processes.stop(name, "interrupted")
                else:
                    waiting = self._start_due(ground, wait=time.monotonic() < patience)
                if not ground.running and not waiting:
                    return
                time.sleep(_POLL_SECONDS)

    def _start_due(self, ground: _Ground, *, wait: bool) -> bool:
        """Start what is due and there is room for; whether some wait for their folders."""
        waiting = False
        for task in self._due():
            if task.trial in ground.running or task in self._interrupted:
                continue
            if wait and in_use(ground.folder.run_folder(task)):
                waiting = True
                continue
            config = self._config(task)
            demand, others = demand_of(config), [taken for _, taken in ground.running.values()]
            if not has_room(demand, others, ground.capacity, self.settings.side_by_side):
                break  # in order, so that a large trial is not kept waiting by small ones
            self._start(ground, task, config)
            ground.running[task.trial] = task, demand
        return waiting

    def _start(self, ground: _Ground, task: Task, config: RunConfig) -> None:
        file = ground.private / f"{task.trial}.yaml"
        file.write_text(config.to_yaml(), encoding="utf-8")
        command = self._command(file, ground.folder.run_folder(task))
        timeout, log = self.settings.trial_timeout, ground.folder.log(task)
        ground.processes.start(task.trial, command, ground.environment, log, timeout)
        rung = "" if self.settings.halving is None else f", rung {task.rung}"
        self._say(f"started {task.trial}{rung}: {self.tried[task.setting]}, seed={task.seed}")

    def _end(self, folder: ExperimentFolder, task: Task, ended: Ended) -> None:
        record = read_trial(task, ended, folder.run_folder(task), self.settings.metric)
        if record is None:
            self._interrupted.add(task)
            self._say(f"interrupted {task.trial}: --resume goes on with it")
            return
        folder.add(record)
        self._records[task] = record
        if record.status == "failed":
            self._say(f"failed {task.trial}: {record.error} (see {folder.log(task)})")
        else:
            figure = f"{self.settings.metric} {record.score:.6g}"
            self._say(f"finished {task.trial}: {figure}, {record.seconds:.0f} s")

    def _due(self) -> list[Task]:
        outcomes = {task: record.outcome for task, record in self._records.items()}
        return due(self.settings, len(self.tried), outcomes)

    def _config(self, task: Task) -> RunConfig:
        steps = self._steps(task.rung)
        return config_of(self.settings, self.tried[task.setting], task.seed, steps)

    def _steps(self, rung: int) -> tuple[int, int] | None:
        return rung_steps(self.settings.halving, len(self.tried), rung)

    def _forget_failed(self) -> None:
        newest = max((task.rung for task in self._records), default=0)
        self._records = {
            task: record
            for task, record in self._records.items()
            if record.status == "finished" or task.rung < newest
        }

    def _ray(self, stack: ExitStack) -> tuple[dict[str, str], dict[str, float]]:
        """Ray, for the length of the experiment: what trials need to use it, and what it has."""
        cluster = local_cluster_for(self._configs, len(os.sched_getaffinity(0)))
        there_already = cluster.address or os.environ.get("RAY_ADDRESS")
        session = stack.enter_context(RaySession(cluster, 1))
        import ray

        address: Any = ray.get_runtime_context().gcs_address
        # A token for a local cluster is in the environment while the session lasts.
        environment = {**os.environ, "RAY_ADDRESS": str(address)}
        capacity = {name: float(amount) for name, amount in ray.cluster_resources().items()}
        if there_already:
            session.close()
        return environment, capacity

    def _results(self, folder: ExperimentFolder) -> Results:
        left = len(self._due())
        return results_of(
            self.settings, self.tried, self._records, folder.path, interrupted=left > 0
        )
