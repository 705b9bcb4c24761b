"""The Python API: a run from configuration to summary.

    from orchestrator import Driver

    with Driver("ranker.yaml") as driver:
        summary = driver.fit()
    print(summary.metrics["test"]["auc"])

The same call works on a laptop, in a notebook, and inside ``ray job submit`` on a cluster.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from signal import SIGTERM
from types import TracebackType
from typing import Any, Literal, Self

from orchestrator import events, states
from orchestrator.cluster import open_hosts
from orchestrator.config import RunConfig
from orchestrator.config_loading import load_config, make_config
from orchestrator.controller import Controller
from orchestrator.doctor.launch import LaunchCheck
from orchestrator.environment import environment
from orchestrator.errors import ConfigError, RunFolderError
from orchestrator.events import Journal, Sink
from orchestrator.goodput import Ledger
from orchestrator.observe import (
    Console,
    EventFile,
    HostsFile,
    MetricsFile,
    PlanFiles,
    Prometheus,
    Recoveries,
    StackFiles,
    TensorBoard,
)
from orchestrator.own_data import check_program, complete
from orchestrator.planning import LaunchPlanner, Plan
from orchestrator.report_command import write_report
from orchestrator.retention import Retention
from orchestrator.run_folder import Identity, RunFolder, default_run_folder, read_history
from orchestrator.schedule import Schedule
from orchestrator.shared_storage import SharedStorage, storage_wanted
from orchestrator.signals import stop_on_signals
from orchestrator.summary import Summary
from orchestrator.surroundings import Surroundings
from workers.errors import DataError
from workers.full_storage import room_wanted
from workers.redaction import Redactor

__all__ = ["Driver"]


class Driver:
    """Leads a run: checks its input, launches hosts, trains, recovers, and sums up.

    The driver's process starts no JAX backend, so that the devices are left to the hosts.

    Args:
        config: A configuration, its values as a mapping, or the path of a YAML file.
        run_dir: The run's folder; None makes ``runs/<program>-<time>``.
        resume: Go on with the run in ``run_dir``, from its last checkpoint. With nothing there, a
            new run starts; a run that is finished is left as it is.
        quiet: Say nothing on standard output.

    Raises:
        ConfigError: The configuration cannot be used.
    """

    def __init__(
        self,
        config: RunConfig | Mapping[str, Any] | str | Path,
        run_dir: str | Path | None = None,
        *,
        resume: bool = False,
        quiet: bool = False,
    ) -> None:
        match config:
            case RunConfig():
                self.config = config
            case str() | Path():
                self.config = load_config(config)
            case _:
                self.config = make_config(config)
        self._run_dir = None if run_dir is None else Path(run_dir)
        self._resume = resume
        self._quiet = quiet
        self._open = ExitStack()
        self._controller: Controller | None = None
        self._recoveries = Recoveries()
        self._hide = Redactor()
        self._console: Console | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End hosts that are left, and a Ray cluster that was started here. May be called twice."""
        self._open.close()

    def fit(self) -> Summary:
        """Train to the end.

        In the main thread, the first SIGINT (Ctrl-C) or SIGTERM finishes the step, saves and
        leaves, after a SIGTERM within ``failures.preemption_grace``; a second one raises
        ``KeyboardInterrupt`` at once.

        Returns:
            What the run came to: ``finished``, or ``interrupted``.

        Raises:
            EmberayError: The input cannot be used (``DataError``, ``ProgramError``, ``SpecError``,
                ``RunFolderError``), or the run failed (``RunFailed``, ``NonFiniteLoss``, …), or its
                own files found no room (``StorageFull``), or their storage answered with errors
                for too long (``StorageUnavailable``).
        """
        ledger = Ledger(time.monotonic(), kind="planning")
        remedy = "free some space, and go on with --resume"
        folder = self._run_dir or Path("runs")
        with room_wanted(folder, "the run's files", remedy), storage_wanted(folder.absolute()):
            try:
                return self._fit(ledger)
            finally:
                self.close()

    def resize(self, hosts: int) -> None:
        """Go on with another number of hosts: same batches, same order of the data.

        While ``fit`` runs, call it from another thread: the hosts finish their step and save, and
        the others start from there. Before, it sets the number to start with.

        Args:
            hosts: Number of hosts.

        Raises:
            ConfigError: There must be a host, and the batch must spread over all devices evenly.

        Example:
            >>> with Driver("ranker.yaml") as driver:               # doctest: +SKIP
            ...     threading.Timer(600, driver.resize, [8]).start()
            ...     driver.fit()
        """
        from workers.planning import check_batch_size

        if hosts < 1:
            raise ConfigError(f"a run cannot be resized to {hosts} hosts: it needs at least one")
        topology = self.config.cluster.slice_topology
        if topology is not None and hosts % topology.hosts_per_slice:
            raise ConfigError(
                f"the run cannot be resized to {hosts} hosts: hosts come by slices of "
                f"{topology.hosts_per_slice}"
            )
        try:
            check_batch_size(self.config.run_spec("", ""), hosts)
        except DataError as error:
            raise ConfigError(f"the run cannot be resized to {hosts} hosts: {error}") from error
        if self._controller is None:
            self.config = self.config.model_copy(update={"hosts": hosts})
        else:
            self._controller.request_resize(hosts)

    def _fit(self, ledger: Ledger) -> Summary:
        from workers.data.index import write_index
        from workers.planning import check_batch_size, check_inputs, resolve_data
        from workers.program import load_program

        check_program(self.config)
        config = self.config = complete(self.config, self._say)
        program = load_program(config.program, config.parameters)
        data = _absolute(resolve_data(program, config.data))
        path = (self._run_dir or default_run_folder(program.name)).absolute()
        run = config.run_spec(data, str(path))
        for size in config.elastic.sizes:
            check_batch_size(run, size)
        inputs = check_inputs(program, run, config.hosts)
        schedule = Schedule.of(config, inputs.steps_per_epoch, evaluates=inputs.test_rows > 0)
        run = replace(run, total_steps=schedule.total_steps, session=secrets.token_hex(32))
        program = load_program(config.program, config.parameters, run.total_steps)

        folder = self._open.enter_context(RunFolder(path, resume=self._resume))
        storage = SharedStorage(folder.checkpoints, config.failures.storage_timeout)
        hide = self._hide = Redactor.of(config.model_dump(), {"data": data}, os.environ)
        same = hide.values(config.identity(data))
        identity = Identity(program.fingerprint(), inputs.fingerprint, same)
        if folder.resumed:
            self._check_resumed(folder, identity, storage)
            finished = folder.finished_summary(schedule.total_steps)
            if finished is not None:
                return finished
        named = {} if config.data is None else {"data": data}
        folder.write_identity(identity, config.model_copy(update=named).to_yaml(hide.values))
        run = replace(run, data_index=write_index(folder.path, inputs.datasets))

        journal = Journal([*self._sinks(folder), self._recoveries], hide=hide)
        journal.record(
            events.RunStarted(
                run_folder=str(path),
                program=program.name,
                hosts=config.hosts,
                devices=config.devices,
                steps_per_epoch=schedule.steps_per_epoch,
                total_steps=schedule.total_steps,
                elapsed=sum(ledger.seconds(time.monotonic()).values()),
                environment=environment(),
            )
        )
        ledger.enter("launching", time.monotonic())
        around = Surroundings(
            group=open_hosts(run, config, self._open),
            planner=LaunchPlanner(program, run, config.fixed_limits),
            committed=storage.committed,
            set_aside=folder.set_checkpoint_aside,
            journal=journal,
            ledger=ledger,
            clock=time.monotonic,
            free=storage.free,
        )
        check = LaunchCheck(config, path, journal.record)
        self._open.callback(check.close)
        check.begin()
        controller = self._controller = Controller(
            config,
            schedule,
            around,
            data=inputs.fingerprint,
            history=read_history(folder.path / "events.jsonl"),
            plan=_newest_plan(folder),
        )
        return self._lead(controller, check, folder, program.name, data, ledger, storage)

    def _lead(
        self,
        controller: Controller,
        check: LaunchCheck,
        folder: RunFolder,
        program: str,
        data: str,
        ledger: Ledger,
        storage: SharedStorage,
    ) -> Summary:
        """Step the controller to its end, and write the summary, however it ends."""

        def stop(number: int) -> None:
            within = self.config.failures.preemption_grace if number == SIGTERM else None
            storage.leave_within(within)
            controller.request_stop(within)

        status: Literal["finished", "interrupted", "failed"] = "interrupted"
        error: str | None = None
        best_possible: dict[str, float] | None = None
        try:
            with stop_on_signals(stop):
                while not isinstance(state := controller.step(), states.Ended):
                    check.advance()
                    if self._console is not None:
                        self._console.look(controller, ledger)
            if isinstance(state, states.Failed):
                raise state.error
            status = "finished" if isinstance(state, states.Finished) else "interrupted"
            best_possible = _best_possible(data) if status == "finished" else None
        except Exception as raised:
            status, error = "failed", self._hide(str(raised))
            raise
        finally:
            summary = Summary.of(
                controller,
                status=status,
                run_folder=folder.path,
                program=program,
                goodput=ledger.seconds(time.monotonic()),
                best_possible=best_possible,
                recoveries=self._recoveries.seconds,
                error=error,
            )
            summary.write(folder.path / "summary.json")
            self._report(folder.path)
        return summary

    def _check_resumed(self, folder: RunFolder, identity: Identity, storage: SharedStorage) -> None:
        """Refuse another run than the folder's; where that has saved nothing yet, start it over."""
        try:
            folder.check_identity(identity)
        except RunFolderError:
            if storage.committed(made=False):
                raise
            folder.start_over()

    def _report(self, folder: Path) -> None:
        """Write the report; a run does not fail for want of it."""
        try:
            write_report(folder)
        except Exception as error:
            self._say(f"warning: no report was written: {type(error).__name__}: {error}")

    def _say(self, line: str) -> None:
        if not self._quiet:
            print(line, flush=True)

    def _sinks(self, folder: RunFolder) -> Iterator[Sink]:
        """The run folder's files, closed with the driver, and the console.

        The file of events comes after the others, so that whatever it tells of is in them already
        when the driver is killed in between; what they hold beyond it is redone on resume.
        """
        from workers.checksums import looks_whole

        yield PlanFiles(folder.path)
        yield StackFiles(folder.path)
        for sink in (
            MetricsFile(folder.path / "metrics.jsonl"),
            HostsFile(folder.path / "hosts.jsonl"),
            TensorBoard(folder.path / "tensorboard"),
            EventFile(folder.path / "events.jsonl"),
        ):
            self._open.callback(sink.close)
            yield sink
        yield Retention(
            folder.checkpoints,
            self.config.checkpoints,
            read_history(folder.path / "events.jsonl"),
            looks_whole,
        )
        yield Prometheus(folder.path.name)
        if not self._quiet:
            console = self._console = Console()
            self._open.callback(console.close)
            yield console


def _absolute(data: str) -> str:
    """A local path made absolute, as hosts run in other folders; addresses are left as they are."""
    from workers.data.files import absolute_data

    return absolute_data(data)


def _best_possible(data: str) -> dict[str, float] | None:
    """The figures no model can beat on this data, where they are known."""
    from workers.data.sources import best_of

    best = best_of(data)
    return None if best is None else asdict(best)


def _newest_plan(folder: RunFolder) -> Plan | None:
    """The plan of an earlier driver, if there is one."""
    from kernels import EmbeddingPlan

    text = folder.newest_plan()
    plan: Any = None if text is None else EmbeddingPlan.from_json(text)
    return plan
