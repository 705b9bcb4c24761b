"""PredictionHost: one machine's part of predicting, driven by commands; knows nothing of Ray."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kernels import EmbeddingPlan, SpecError
from workers import protocol
from workers.batches import BatchSource, ReadyBatch, encode, raw_batches
from workers.commanded_host import CommandedHost, present
from workers.data.quarantine import quarantine_of
from workers.data.reader import ExampleReader
from workers.errors import PlanMismatch
from workers.full_storage import room_wanted
from workers.mesh import leave_process_group
from workers.planning import data_fingerprint, make_plan, planned_specs, rebuilt
from workers.prediction_data import RowRange, open_predicted, prediction_schema
from workers.prediction_files import PartWriter
from workers.prediction_protocol import (
    HostCommand,
    HostReply,
    Predict,
    Predicted,
    PredictionSpec,
)
from workers.predictions import ServedState, load_state, make_prediction_step, own_rows
from workers.program import load_program
from workers.protocol import Assignment, Observed, merge_observed
from workers.saved_tables import SavedTables
from workers.scoring import columns_of

__all__ = ["PredictionHost"]

SURVEY_BATCHES = 8
"""Places in the data a host looks at to propose limits."""


@dataclass(frozen=True)
class _Prepared:
    """What a host builds for one plan."""

    plan: EmbeddingPlan
    specs: Any
    step: Any


class PredictionHost(CommandedHost):
    """One host that predicts: see ``workers.prediction_protocol``.

    It stands in for ``workers.host.Host``, and is told the same ways.

    Args:
        run: What is to be predicted.
        assignment: This host's place in this launch.
        address: Name or IP under which the other hosts reach this one.
    """

    def __init__(
        self, run: PredictionSpec, assignment: Assignment, address: str = "127.0.0.1"
    ) -> None:
        super().__init__(run, assignment, address)
        self._run = run
        self._program = load_program(run.program, run.parameters, run.total_steps)
        self._dataset = open_predicted(self._program, run, columns_of(run.method), assignment)
        quarantine = quarantine_of(run.run_folder, run.quarantine)
        self._reader = ExampleReader(
            self._dataset, prediction_schema(self._program), quarantine=quarantine
        )
        self._prepared: _Prepared | None = None
        self._state: ServedState | None = None
        self._phases.enter("idle")

    def hold(self, lease: int) -> int:
        """There are no leases: a part is finished, or lost with its host."""
        return 0

    def release(self, lease: int, last: int) -> None:
        """See ``hold``."""

    def execute(self, command: HostCommand) -> HostReply:
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
            case Predict():
                with self._phases.within("evaluating"):
                    return self._predict(command.parts)
            case protocol.Finish():
                leave_process_group()
                return protocol.Finished(self._assignment.rank, ())
            case _:
                raise TypeError(f"a host that predicts is not told {type(command).__name__}")

    def _survey(self) -> protocol.Surveyed:
        rank, hosts = self._assignment.rank, self._assignment.hosts
        plan = make_plan(self._program, self._run, hosts, None, None, 0)
        specs = planned_specs(self._program, plan)
        rows, width = self._dataset.rows, self._run.batch_size // hosts
        observed: dict[str, Observed] = {}
        for place in range(rank, SURVEY_BATCHES * hosts, hosts):
            first = place * rows // (SURVEY_BATCHES * hosts)
            order = RowRange(range(first, min(first + width, rows)), self._run.batch_size, 1)
            for raw in raw_batches(order, self._reader, (0, width), 0, 1):
                observed = merge_observed(observed, encode(raw, specs, plan).observed)
        return protocol.Surveyed(rank, rows, -(-rows // self._run.batch_size), observed)

    def _prepare(self, plan: EmbeddingPlan) -> protocol.Prepared:
        mesh = present(self._mesh, "Join")
        try:
            specs = planned_specs(self._program, plan)
        except SpecError as error:
            raise PlanMismatch(
                f"host {self._assignment.rank} runs another program than the driver: {error}"
            ) from error
        step = make_prediction_step(self._program, specs, plan, mesh, self._run.method)
        self._prepared = _Prepared(
            plan, specs, self._steps.prepared(f"predict-{plan.hash[:16]}", step)
        )
        own = rebuilt(self._program, self._run, self._assignment.hosts, plan)
        data = data_fingerprint({self._run.split: self._dataset})
        return protocol.Prepared(self._assignment.rank, own.hash, data)

    def _restore(self, step: int | None) -> protocol.Restored:
        prepared, mesh = present(self._prepared, "Prepare"), present(self._mesh, "Join")
        saved = SavedTables(Path(self._run.trained), self._program, step)
        saved.verify(self._assignment.rank, self._assignment.hosts)
        self._state = load_state(self._program, prepared.specs, prepared.plan, mesh, saved)
        return protocol.Restored(self._assignment.rank, saved.step)

    def _predict(self, parts: tuple[int, ...]) -> Predicted:
        rank, hosts, run = self._assignment.rank, self._assignment.hosts, self._run
        ranges = [run.rows_of(part, self._dataset.rows) for part in parts]
        steps = -(-max(map(len, ranges)) * hosts // run.batch_size)
        if rank >= len(parts):
            for _ in self._scored(range(0), steps):
                continue
            return Predicted(rank, 0)
        rows, folder = ranges[rank], Path(run.output)
        with (
            room_wanted(folder, "predictions", "free some space, and give the command again"),
            PartWriter(folder, parts[rank], self._dataset, rows, run.keep) as writer,
        ):
            for columns, usable in self._scored(rows, steps):
                writer.add(columns, usable)
        return Predicted(rank, len(rows))

    def _scored(
        self, rows: range, steps: int
    ) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
        """Columns of the rows, batch by batch, and which of them could be used."""
        prepared = present(self._prepared, "Prepare")
        state, mesh = present(self._state, "Restore"), present(self._mesh, "Join")
        order = RowRange(rows, self._run.batch_size, steps)
        where = (self._assignment.rank, prepared.plan, prepared.specs, mesh, self._phases)
        pipeline = BatchSource(order, self._reader, *where).start(0, steps)
        try:
            for _ in range(steps):
                with self._phases.within("waiting_for_data"):
                    ready: ReadyBatch = next(pipeline)
                columns = prepared.step(state, ready.batch)
                # One batch after the other, as collectives of two must not meet.
                on_host = {name: own_rows(array) for name, array in columns.items()}
                self._step += 1
                real = ready.rows >= 0
                usable = own_rows(ready.batch.weights) > 0
                yield {name: array[real] for name, array in on_host.items()}, usable[real]
        finally:
            pipeline.close()
