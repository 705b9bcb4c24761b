"""Host: one machine's part of a run, driven by commands; knows nothing of Ray."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kernels import EmbeddingPlan, FeatureSpec, SpecError
from workers import protocol
from workers.batches import BatchSource, ReadyBatch, encode, raw_batches, slots_of
from workers.brake import Brake
from workers.checkpoint import About, Checkpoints, committed_steps
from workers.commanded_host import CommandedHost, present
from workers.data.dataset import Dataset
from workers.data.quarantine import quarantine_of
from workers.data.reader import ExampleReader
from workers.errors import PlanMismatch
from workers.evaluation import evaluate, make_evaluation_step
from workers.feed import Feed
from workers.full_storage import room_wanted
from workers.lease import LeaseNotes
from workers.memory import memory_in_use
from workers.mesh import leave_process_group
from workers.metrics import BinaryMetrics
from workers.norm_histogram import NormHistogram
from workers.planning import (
    TRAIN,
    data_fingerprint,
    make_plan,
    order_for,
    planned_specs,
    rebuilt,
)
from workers.profiling import Tracer
from workers.program import Program, load_program
from workers.protocol import Assignment, Command, Observed, Reply, RunSpec, merge_observed
from workers.row_norms import make_norms_step, norms_on_host
from workers.run_data import RunData
from workers.training import (
    MetricState,
    StepOutcome,
    TrainState,
    abstract_state,
    advance,
    empty_metrics,
    initial_state,
    make_train_step,
    metrics_on_host,
)

__all__ = ["Host"]

SURVEY_BATCHES = 8
"""Batches of each split a host looks at to propose limits."""


@dataclasses.dataclass
class PlanInForce:
    """What a host builds for one plan."""

    plan: EmbeddingPlan
    specs: Mapping[str, FeatureSpec]
    source: BatchSource
    checkpoints: Checkpoints
    train_step: Any
    evaluation_step: Any
    norms_step: Any


class Host(CommandedHost):
    """One host of a run: data, preprocessing, its devices of the mesh, its part of checkpoints.

    ``execute`` carries out one command at a time, in the order of ``workers.protocol``; ``pulse``
    may be called from another thread at any time.

    Args:
        run: The run.
        assignment: This host's place in this launch.
        address: Name or IP under which the other hosts reach this one.
    """

    def __init__(self, run: RunSpec, assignment: Assignment, address: str = "127.0.0.1") -> None:
        super().__init__(run, assignment, address)
        self._run = run
        self._program: Program = load_program(run.program, run.parameters, run.total_steps)
        self._run_data = RunData(run, self._program.schema.columns, assignment)
        self._datasets: dict[str, tuple[Dataset, ExampleReader]] = {}
        self._prepared: PlanInForce | None = None
        self._state: TrainState | None = None
        self._metrics: MetricState | None = None
        self._feed = Feed(self._phases)
        self._brake = Brake()
        self._tracer = Tracer(run.profile, assignment.rank, run.run_folder, self._phases)
        self._phases.enter("idle")

    def hold(self, lease: int) -> int:
        """Begin no further step of a lease, on any thread: see ``workers.brake``."""
        return self._brake.hold(lease)

    def release(self, lease: int, last: int) -> None:
        """Run the lease that is held up to this step, on any thread."""
        self._brake.release(lease, last)

    def execute(self, command: Command) -> Reply:
        """Carry out one command.

        Raises:
            EmberayError: The command cannot be carried out; the message says why.
        """
        match command:
            case protocol.Join():
                with self._phases.within("joining"):
                    return self._join(command.coordinator, self._run)
            case protocol.Survey():
                with self._phases.within("surveying"):
                    return self._survey()
            case protocol.Prepare():
                with self._phases.within("preparing"):
                    return self._prepare(EmbeddingPlan.from_json(command.plan))
            case protocol.Restore():
                with self._phases.within("restoring"):
                    return self._restore(command.step)
            case protocol.RunLease():
                return self._run_lease(command.lease)
            case protocol.Evaluate():
                with self._phases.within("evaluating"):
                    return self._evaluate(command)
            case protocol.Finish():
                with self._phases.within("finishing"):
                    return self._finish()

    @property
    def state(self) -> TrainState:
        """The current state; only after ``Restore``."""
        return present(self._state, "Restore")

    @property
    def plan(self) -> EmbeddingPlan:
        """The current plan; only after ``Prepare``."""
        return present(self._prepared, "Prepare").plan

    def close(self) -> None:
        """Stop the pipeline's threads; the process group is left as it is."""
        self._feed.close()

    # The commands, in their order.

    def _survey(self) -> protocol.Surveyed:
        plan = make_plan(self._program, self._run, self._assignment.hosts, None, None, 0)
        specs = planned_specs(self._program, plan)
        observed: dict[str, Observed] = {}
        for split in self._run_data.splits:
            dataset, reader = self._data(split)
            order = order_for(dataset, self._run)
            slots = slots_of(order, self._assignment.rank, self._assignment.hosts)
            last = min(SURVEY_BATCHES, order.steps_per_epoch)
            for raw in raw_batches(order, reader, slots, 0, last):
                observed = merge_observed(observed, encode(raw, specs, plan).observed)
        dataset, _ = self._data(TRAIN)
        steps = order_for(dataset, self._run).steps_per_epoch
        return protocol.Surveyed(self._assignment.rank, dataset.rows, steps, observed)

    def _prepare(self, plan: EmbeddingPlan) -> protocol.Prepared:
        mesh = present(self._mesh, "Join")
        if mesh.size != plan.topology.devices:
            raise PlanMismatch(
                f"host {self._assignment.rank}: the plan is for {plan.topology.devices} devices, "
                f"but the mesh has {mesh.size}"
            )
        try:
            specs = planned_specs(self._program, plan)
        except SpecError as error:
            raise PlanMismatch(
                f"host {self._assignment.rank} runs another program or run than the driver: {error}"
            ) from error
        if self._prepared is not None:
            self._feed.close()
            with room_wanted(self._checkpoint_folder):
                self._prepared.checkpoints.close()
        self._prepared = PlanInForce(
            plan=plan,
            specs=specs,
            source=self._source(TRAIN, plan, specs),
            checkpoints=Checkpoints(
                self._checkpoint_folder,
                About(plan, self._program.fingerprint()),
            ),
            train_step=self._steps.prepared(
                f"train-{plan.hash[:16]}",
                make_train_step(self._program, specs, plan, mesh, skip_non_finite=self._skips),
            ),
            evaluation_step=self._steps.prepared(
                f"evaluate-{plan.hash[:16]}",
                make_evaluation_step(self._program, specs, plan, mesh),
            ),
            norms_step=self._steps.prepared(f"norms-{plan.hash[:16]}", make_norms_step(plan, mesh)),
        )
        if self._state is not None:  # raised limits: tables and model stay as they are
            self._prepared.checkpoints.reserve(self._state)
        own = rebuilt(self._program, self._run, self._assignment.hosts, plan)
        data = data_fingerprint({name: self._data(name)[0] for name in self._run_data.splits})
        return protocol.Prepared(self._assignment.rank, own.hash, data)

    def _restore(self, step: int | None) -> protocol.Restored:
        prepared, mesh = present(self._prepared, "Prepare"), present(self._mesh, "Join")
        self._feed.close()
        self._state = None
        self._step = step or 0
        self._start_feed()  # so that the first batches are ready as soon as the state is
        made_from = (self._program, prepared.plan, prepared.specs, mesh)
        if step is None:
            self._state = initial_state(*made_from, self._run.seed)
        else:
            self._state = prepared.checkpoints.restore(
                step,
                abstract_state(*made_from),
                lambda: initial_state(*made_from, self._run.seed),
            )
        prepared.checkpoints.reserve(self._state)
        self._metrics = empty_metrics(mesh)
        return protocol.Restored(self._assignment.rank, self._step)

    def _run_lease(self, lease: protocol.Lease) -> protocol.LeaseDone:
        prepared = present(self._prepared, "Prepare")
        if lease.plan_hash != prepared.plan.hash:
            raise PlanMismatch(
                f"host {self._assignment.rank}: lease {lease.number} is for plan "
                f"{lease.plan_hash[:12]}, but plan {prepared.plan.hash[:12]} is prepared"
            )
        if self._step != lease.first:
            raise PlanMismatch(
                f"host {self._assignment.rank}: lease {lease.number} begins at step {lease.first}, "
                f"but {self._step} steps are done"
            )
        self._phases.take_seconds()
        notes = LeaseNotes(prepared.specs, skips=self._skips)
        self._brake.begin(lease.number, lease.first)
        with self._phases.within("training"):
            while self._step < lease.last and self._brake.may_run(self._step):
                ready = self._next_batch()
                if self._step in lease.skip:
                    self._state = advance(self.state)
                    notes.passed_over()
                else:
                    notes.trained(ready, self._train(ready))
                self._step += 1
            losses = notes.losses()
            metrics = self._take_metrics()
        with room_wanted(self._checkpoint_folder):
            prepared.checkpoints.check()
        if self._run.record_rows:
            name = f"host-{self._assignment.rank}.jsonl"
            notes.write_rows(Path(self._run.run_folder) / "rows" / name)
        if lease.save and self._step == lease.last:
            with self._phases.within("saving"), room_wanted(self._checkpoint_folder):
                prepared.checkpoints.save(self._step, self.state)
        return protocol.LeaseDone(
            rank=self._assignment.rank,
            lease=lease.number,
            first=lease.first,
            last=self._step,
            losses=losses,
            examples=notes.examples,
            metrics=metrics,
            observed=notes.observed,
            skipped=tuple(notes.skipped),
            seconds=self._phases.take_seconds(),
            stages=self._feed.take_seconds(),
            squeezed=self._feed.take_squeezed(),
            memory=memory_in_use(),
        )

    def _evaluate(self, command: protocol.Evaluate) -> protocol.Evaluated:
        split = command.split
        prepared, mesh = present(self._prepared, "Prepare"), present(self._mesh, "Join")
        dataset, _ = self._data(split)
        steps = order_for(dataset, self._run).steps_per_epoch
        pipeline = self._source(split, prepared.plan, prepared.specs).start(0, steps)
        self._brake.begin(command.number, 0)
        try:
            batches = (pipeline, steps, mesh, self._phases, self._brake.may_run)
            shares = evaluate(self._program, prepared.evaluation_step, self.state, *batches)
        finally:
            pipeline.close()
        rank = self._assignment.rank
        if shares is None:
            return protocol.Evaluated(rank, split, BinaryMetrics.empty(), complete=False)
        return protocol.Evaluated(
            rank,
            split,
            shares[0],
            ranking=shares[1],
            squeezed=pipeline.take_squeezed(),
            row_norms=self._row_norms() if command.row_norms else {},
        )

    def _row_norms(self) -> Mapping[str, NormHistogram]:
        """Of this host's rows, by table."""
        prepared = present(self._prepared, "Prepare")
        arrays = {name: variables.table for name, variables in self.state.tables.items()}
        return norms_on_host(prepared.plan, prepared.norms_step(arrays))

    def _finish(self) -> protocol.Finished:
        self._feed.close()
        self._tracer.stop()
        if self._prepared is not None:
            with room_wanted(self._checkpoint_folder):
                self._prepared.checkpoints.close()
            self._prepared = None
        leave_process_group()
        return protocol.Finished(self._assignment.rank, committed_steps(self._checkpoint_folder))

    # Parts of the commands.

    @property
    def _skips(self) -> bool:
        return self._run.non_finite == "skip"

    @property
    def _checkpoint_folder(self) -> Path:
        return Path(self._run.run_folder) / "checkpoints"

    def _data(self, split: str) -> tuple[Dataset, ExampleReader]:
        if split not in self._datasets:
            dataset = self._run_data.open(split)
            quarantine = quarantine_of(self._run.run_folder, self._run.quarantine)
            reader = ExampleReader(dataset, self._program.schema, quarantine=quarantine)
            self._datasets[split] = dataset, reader
        return self._datasets[split]

    def _source(
        self, split: str, plan: EmbeddingPlan, specs: Mapping[str, FeatureSpec]
    ) -> BatchSource:
        dataset, reader = self._data(split)
        order = order_for(dataset, self._run)
        mesh = present(self._mesh, "Join")
        where = (self._assignment.rank, plan, specs, mesh, self._phases)
        return BatchSource(order, reader, *where, drop_ids=self._run.drop_ids)

    def _start_feed(self) -> None:
        """Begin to make the batches from the present step on."""
        dataset, _ = self._data(TRAIN)
        steps = order_for(dataset, self._run).steps_per_epoch * self._run.epochs
        source = present(self._prepared, "Prepare").source
        self._feed.start(source, self._step, max(steps, self._step + 1))

    def _next_batch(self) -> ReadyBatch:
        if not self._feed.stands_at(self._step):
            self._start_feed()
        return self._feed.take()

    def _train(self, ready: ReadyBatch) -> StepOutcome:
        step = (ready.step, present(self._prepared, "Prepare").train_step)
        arguments = (self.state, present(self._metrics, "Restore"), ready.batch)
        self._state, self._metrics, outcome = self._tracer.run(*step, *arguments)
        self._feed.tell(outcome.agreed)
        return outcome

    def _take_metrics(self) -> BinaryMetrics:
        taken = metrics_on_host(present(self._metrics, "Restore"))
        self._metrics = empty_metrics(present(self._mesh, "Join"))
        return taken
