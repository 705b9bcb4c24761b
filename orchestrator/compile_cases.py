"""One thing to compile: a program, a batch, slices; its plan, and the memory that will take."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.config import LimitsConfig
from orchestrator.topology import SliceTopology
from workers.compile_process import STEPS, CompileRequest

if TYPE_CHECKING:
    from kernels import EmbeddingPlan

__all__ = ["TENSOR_LIMIT", "CompileCase", "Estimate", "StackMemory", "TableMemory", "estimate"]

TENSOR_LIMIT = 16 * 2**30
"""Bytes of one device beyond which a table or slot variable is refused: in the words of XLA's TPU
compiler (libtpu 0.0.52), "SparseCore only supports 16 GiB of HBM per tensor"."""

_USABLE = 0.95
"""Share of a device's memory that an estimate may fill: the system takes some (of 32 GiB of a v6e,
31.24 are given), and the dense model and scratch memory are not estimated."""


@dataclass(frozen=True)
class CompileCase:
    """A program and a batch on slices."""

    program: str
    parameters: Mapping[str, Any]
    batch_size: int
    topology: SliceTopology
    limits: Mapping[str, LimitsConfig]
    """Set by hand, by stack; the others are those that no batch can exceed."""
    without_slots: bool = False
    """Whether all tables are trained by plain SGD, whatever the program says."""

    def plan(self) -> EmbeddingPlan:
        """The plan of this case; touches no device.

        Raises:
            ProgramError: The program cannot be loaded.
            SpecError: No plan can work, such as for a batch that cannot be spread evenly.
        """
        from kernels import Limits, Topology, build_plan
        from workers.compile_process import without_slots
        from workers.program import load_program

        program = load_program(self.program, self.parameters, STEPS)
        if self.without_slots:
            program = without_slots(program)
        topology = Topology(
            self.topology.hosts,
            self.topology.devices_per_host,
            self.topology.sparsecores_per_device,
        )
        specs = program.feature_specs(self.batch_size)
        plan = build_plan(specs, topology, batch_size=self.batch_size)
        given = {
            name: Limits(
                limits.max_ids_per_partition,
                limits.max_unique_ids_per_partition,
                limits.buffer_size_per_device,
            ).fitted(topology)
            for name, limits in self.limits.items()
        }
        return plan.with_limits(given) if given else plan

    def request(self, plan: EmbeddingPlan) -> CompileRequest:
        """What the compiler's process is told."""
        return CompileRequest(
            program=self.program,
            parameters=self.parameters,
            plan=plan.to_json(),
            topology=self.topology.compiler_name,
            slices=self.topology.slices,
            host_bounds=self.topology.compiler_host_bounds,
            without_slots=self.without_slots,
        )

    def on(self, topology: SliceTopology) -> CompileCase:
        """The same on other slices, with the next batch size that can be spread over them."""
        spread = -(-self.batch_size // topology.sparsecores) * topology.sparsecores
        return dataclasses.replace(self, topology=topology, batch_size=spread)


@dataclass(frozen=True)
class TableMemory:
    """A table's bytes on one device, padding included."""

    name: str
    rows: int
    width: int
    table: int
    slots: int


@dataclass(frozen=True)
class StackMemory:
    """Tables that lie together, which SparseCores read and write as one."""

    name: str
    tables: tuple[TableMemory, ...]
    tensor: int
    """Bytes on one device of the stack's table, or of one of its slot variables."""
    activations: int
    """Bytes on one device of what a lookup returns; its gradients take as much."""
    inputs: int
    """Bytes on one device of a batch's ids, samples and gains."""
    max_ids_per_partition: int
    max_unique_ids_per_partition: int
    buffer_size_per_device: int


@dataclass(frozen=True)
class Estimate:
    """Bytes of one device as a plan tells, without the dense model and scratch memory."""

    stacks: tuple[StackMemory, ...]
    available: int
    """Memory of a device."""

    @property
    def tables(self) -> int:
        """All tables, without slot variables."""
        return sum(table.table for stack in self.stacks for table in stack.tables)

    @property
    def slots(self) -> int:
        """All slot variables."""
        return sum(table.slots for stack in self.stacks for table in stack.tables)

    @property
    def activations(self) -> int:
        """Activations and their gradients."""
        return 2 * sum(stack.activations for stack in self.stacks)

    @property
    def needed(self) -> int:
        """All that is estimated."""
        return (
            self.tables + self.slots + self.activations + sum(stack.inputs for stack in self.stacks)
        )

    @property
    def largest_tensor(self) -> int:
        """The largest table or slot variable as a SparseCore sees it."""
        return max((stack.tensor for stack in self.stacks), default=0)

    @property
    def fits(self) -> bool:
        """Whether it should fit: only the compiler knows."""
        usable = _USABLE * self.available
        return self.needed <= usable and self.largest_tensor <= TENSOR_LIMIT


def estimate(plan: EmbeddingPlan, topology: SliceTopology) -> Estimate:
    """What a plan will take on a device of these slices."""
    described = {table.name: table for table in plan.tables}
    stacks = tuple(
        StackMemory(
            name=stack.name,
            tables=tuple(
                TableMemory(
                    name=placed.table,
                    rows=described[placed.table].vocabulary_size,
                    width=described[placed.table].embedding_dim,
                    table=stack.memory.tables * placed.padded_vocab_size // stack.vocab_size,
                    slots=stack.memory.slots * placed.padded_vocab_size // stack.vocab_size,
                )
                for placed in stack.tables
            ),
            tensor=stack.memory.tables,
            activations=stack.memory.activations,
            inputs=stack.memory.input_buffers,
            max_ids_per_partition=stack.limits.max_ids_per_partition,
            max_unique_ids_per_partition=stack.limits.max_unique_ids_per_partition,
            buffer_size_per_device=stack.limits.buffer_size_per_device,
        )
        for stack in plan.stacks
    )
    return Estimate(stacks, topology.hbm_bytes_per_device)
