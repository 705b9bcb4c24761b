"""What a run would take and move, from its configuration: everything that ``plan`` tells.

program, batch, cluster ─► plan: bytes by table, device and host, padding
a sample of the data    ─► the plan's limits, rows asked for, exchange
published speeds        ─► the time of a step, on TPU slices
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kernels.planning.traffic import Traffic, stack_traffic
from orchestrator.config import RunConfig
from orchestrator.own_data import check_program, complete
from orchestrator.plan_exchange import ExchangeFigures, exchange_figures
from orchestrator.plan_tables import TableFigures, rows_imbalance, table_figures
from orchestrator.planning import LaunchPlanner
from orchestrator.step_time import StepTime, slice_speeds, step_time

if TYPE_CHECKING:
    from kernels import EmbeddingPlan
    from workers.dense_cost import DenseCost

__all__ = ["PlanFigures", "plan_figures"]


@dataclass(frozen=True)
class PlanFigures:
    """Everything that ``plan`` tells."""

    config: RunConfig
    plan: EmbeddingPlan
    """The first plan of a run with these batches, limits and all."""
    tables: tuple[TableFigures, ...]
    rows_imbalance: float
    """See ``orchestrator.plan_tables.rows_imbalance``."""
    dense: DenseCost
    batches: int = 0
    """Training batches that were looked at; with none, the figures below are empty."""
    exchange: tuple[ExchangeFigures, ...] = ()
    """By table stack."""
    traffic: Traffic | None = None
    """Of a device, all stacks."""
    time: StepTime | None = None
    """Of a step; None where no speeds are published: on other machines than TPU slices."""

    @property
    def available(self) -> int | None:
        """Bytes of a device's memory, where they are known."""
        topology = self.config.cluster.slice_topology
        return None if topology is None else topology.hbm_bytes_per_device


def plan_figures(config: RunConfig, *, batches: int) -> PlanFigures:
    """Work out everything; reads data, and no device takes part.

    Args:
        config: As for a run.
        batches: Batches to look at, of every split; with 0 no data is looked at, and limits are
            those that no batch can exceed.

    Raises:
        ConfigError: A setting cannot be used.
        DataError: The data cannot be read, or the batch not be spread over the devices.
        ProgramError: The program cannot be loaded, or has no data.
        SpecError: No plan can work.
    """
    from workers.data.demand import survey_data
    from workers.dense_cost import dense_cost
    from workers.planning import check_batch_size, check_inputs, resolve_data
    from workers.program import load_program

    check_program(config)
    config = complete(config)
    program = load_program(config.program, config.parameters)
    topology = config.cluster.slice_topology
    run = config.run_spec("", "")
    check_batch_size(run, config.hosts)
    survey = None
    if batches:
        run = dataclasses.replace(run, data=resolve_data(program, config.data))
        check_inputs(program, run, config.hosts)
        survey = survey_data(
            program,
            run,
            config.hosts,
            batches=batches,
            devices_per_chip=topology.generation.devices_per_chip if topology else 1,
        )
    planner = LaunchPlanner(program, run, config.fixed_limits)
    plan: Any = planner.plan(survey.observed if survey else None, None, 0, config.hosts)
    found = PlanFigures(
        config=config,
        plan=plan,
        tables=table_figures(plan),
        rows_imbalance=rows_imbalance(plan),
        dense=dense_cost(program, config.batch_size // config.devices),
    )
    if survey is None:
        return found
    traffic = Traffic()
    for stack in plan.stacks:
        traffic += stack_traffic(stack, plan.topology, survey.demand[stack.name])
    return dataclasses.replace(
        found,
        batches=survey.batches,
        exchange=tuple(
            exchange_figures(
                stack, survey.demand[stack.name], survey.observed[stack.name], config.devices
            )
            for stack in plan.stacks
        ),
        traffic=traffic,
        time=step_time(traffic, found.dense, slice_speeds(topology)) if topology else None,
    )
