"""The train step compiled for TPUs that are not there.

With the package `libtpu` installed (the extra ``tpu``), XLA's TPU compiler runs on any machine. It
gives what the chips would run, the memory that takes, and the errors they would give:

    name of a topology  → `describe_topology` →  devices that can only be compiled for
    program, devices    → `compile_train_step` → `CompiledStep`: memory, time, optimized HLO

The compiler must be told that there is no TPU before JAX loads it, and it aborts the process on
what it takes for an error of its own: run it in a process of its own, with `COMPILER_ENVIRONMENT`.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import Mesh

from kernels import (
    EmbeddingPlan,
    FeatureSpec,
    Limits,
    Topology,
    build_plan,
    eval_preprocess_sparse_dense_matmul_input_shape,
)
from kernels.utils import num_sparsecores_per_device
from workers.errors import ProgramError
from workers.mesh import make_mesh, platform_of, spread
from workers.minibatches import CUTS
from workers.planning import planned_specs
from workers.program import Program
from workers.training import (
    DeviceBatch,
    abstract_state,
    empty_metrics,
    make_train_step,
)

__all__ = [
    "COMPILER_ENVIRONMENT",
    "KNOWN_TOPOLOGIES",
    "CompiledStep",
    "MemoryUse",
    "abstract_batch",
    "compile_train_step",
    "describe_topology",
    "plan_for_mesh",
    "table_sized_operations",
]

COMPILER_ENVIRONMENT: Mapping[str, str] = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
}
"""Environment variables of a process that compiles for TPUs without having one. The first lets
several such processes run at a time."""

KNOWN_TOPOLOGIES: tuple[str, ...] = ("v5p:2x2x1", "v6e:2x2", "v6e:4x4", "tpu7x:2x2x1")
"""Names that are known to work: kind of TPU, and chips along every axis. There are others."""


@dataclass(frozen=True)
class MemoryUse:
    """Bytes of one device that a compiled program uses, as the compiler tells."""

    arguments: int
    """Tables, slot variables, parameters, batch: all arguments."""
    results: int
    """All results, donated arguments included."""
    reused: int
    """Of the results, those that lie where a donated argument lay."""
    temporaries: int
    """What is needed while a step runs."""
    code: int
    """The program itself."""
    tables: int
    """Tables and slot variables, without padding by the compiler."""

    @property
    def total(self) -> int:
        """The most that is in use at a time."""
        return self.arguments + self.results - self.reused + self.temporaries + self.code


@dataclass(frozen=True)
class CompiledStep:
    """A train step that was compiled for a topology."""

    topology: str
    device_kind: str
    plan: EmbeddingPlan
    memory: MemoryUse
    lowering_seconds: float
    compiling_seconds: float
    hlo: str
    """The optimized program as text."""

    def moved_tables(self) -> list[str]:
        """See `table_sized_operations`: empty if all tables are updated where they are."""
        return table_sized_operations(self.hlo, self.plan)


def describe_topology(
    name: str, slices: int = 1, host_bounds: Sequence[int] | None = None
) -> list[Any]:
    """The devices of a TPU topology, to compile for.

    Args:
        name: Kind of TPU and chips along every axis, such as ``v6e:4x4``.
        slices: Number of such slices.
        host_bounds: Chips of a host along every axis; None leaves it to the compiler.

    Raises:
        ProgramError: If `libtpu` is missing, or has no topology of this name.
    """
    for variable, value in COMPILER_ENVIRONMENT.items():
        if os.environ.get(variable) != value:
            raise ProgramError(
                f"compiling for a TPU that is not there needs the environment variable {variable} "
                f"to be '{value}' before Python starts; set it"
            )
    further: dict[str, Any] = {} if slices == 1 else {"num_slices": slices}
    if host_bounds is not None:
        further["chips_per_host_bounds"] = list(host_bounds)
    try:
        described = topologies.get_topology_desc(platform="tpu", topology_name=name, **further)
    except Exception as error:
        raise ProgramError(
            f"there is no TPU topology '{name}' to compile for ({str(error).strip()}); names are "
            f"such as {', '.join(KNOWN_TOPOLOGIES)}, and the package libtpu must be installed"
        ) from error
    return list(described.devices)


def plan_for_mesh(
    program: Program,
    mesh: Mesh,
    batch_size: int,
    limits: Mapping[str, Limits] | None = None,
) -> EmbeddingPlan:
    """The plan for a program on a mesh, with its hosts and its devices' SparseCores.

    Args:
        program: What is trained.
        mesh: All devices.
        batch_size: Samples of a global batch.
        limits: By stack; None gives the limits no batch can exceed.
    """
    hosts = len({device.process_index for device in mesh.devices.flat})
    cores = num_sparsecores_per_device(mesh.devices.flat[0])
    topology = Topology(hosts, mesh.size // hosts, cores)
    specs = program.feature_specs(batch_size)
    return build_plan(specs, topology, batch_size=batch_size, limits=limits)


def abstract_batch(
    program: Program, plan: EmbeddingPlan, specs: Mapping[str, FeatureSpec], mesh: Mesh
) -> DeviceBatch:
    """Shapes, types and layouts of a global batch: holds no array."""
    inputs = eval_preprocess_sparse_dense_matmul_input_shape(
        dict(specs),
        plan.topology.devices,
        plan.topology.devices,
        num_sc_per_device=plan.topology.sparsecores_per_device,
        enable_minibatching=plan.minibatching,
    )
    sample: Any = jax.ShapeDtypeStruct((plan.batch_size,), jnp.float32)
    dense: Any = jax.ShapeDtypeStruct((plan.batch_size, len(program.dense)), jnp.float32)
    riding: Any = None
    if plan.minibatching:
        riding = jax.ShapeDtypeStruct((plan.topology.devices, CUTS), jnp.int32)
    return _laid(mesh, DeviceBatch(inputs, dense, sample, sample, riding))


def compile_train_step(
    program: Program,
    topology: str,
    batch_size: int,
    plan: EmbeddingPlan | None = None,
    *,
    devices: Sequence[Any] | None = None,
    report: Callable[[str], None] = lambda phase: None,
) -> CompiledStep:
    """Compile the complete train step of a program for a TPU topology.

    Args:
        program: What is trained.
        topology: See `describe_topology`.
        batch_size: Samples of a global batch.
        plan: For the topology's mesh; None makes one with the limits no batch can exceed.
        devices: Of `describe_topology`; None asks for those of one slice.
        report: Told ``lowering`` and ``compiling`` when each begins.

    Raises:
        ProgramError: See `describe_topology`.
        jax.errors.JaxRuntimeError: If the program does not fit or cannot run; the compiler's words.

    Example:
        >>> step = compile_train_step(program(), "v6e:4x4", 16384)
        >>> step.memory.temporaries, step.moved_tables()
    """
    devices = describe_topology(topology) if devices is None else devices
    mesh = make_mesh(devices)
    plan = plan or plan_for_mesh(program, mesh, batch_size)
    specs = planned_specs(program, plan)
    report("lowering")
    began = time.perf_counter()
    state = abstract_state(program, plan, specs, mesh)
    step: Any = make_train_step(program, specs, plan, mesh)
    metrics = _laid(mesh, jax.eval_shape(lambda: empty_metrics(mesh)))
    arguments = (state, metrics, abstract_batch(program, plan, specs, mesh))
    lowered = step.trace(*arguments).lower(lowering_platforms=(platform_of(mesh),))
    report("compiling")
    between = time.perf_counter()
    compiled = lowered.compile()
    ended = time.perf_counter()
    analysis = compiled.memory_analysis()
    tables = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.tables))
    return CompiledStep(
        topology=topology,
        device_kind=devices[0].device_kind,
        plan=plan,
        memory=MemoryUse(
            arguments=analysis.argument_size_in_bytes,
            results=analysis.output_size_in_bytes,
            reused=analysis.alias_size_in_bytes,
            temporaries=analysis.temp_size_in_bytes,
            code=analysis.generated_code_size_in_bytes,
            tables=tables // mesh.size,
        ),
        lowering_seconds=between - began,
        compiling_seconds=ended - between,
        hlo=compiled.as_text(),
    )


def table_sized_operations(hlo: str, plan: EmbeddingPlan) -> list[str]:
    """Instructions of an optimized program that make an array of a table's shape.

    That is, of the shape of a stack as a device holds it, transposed or not, or as all devices
    hold it together. Arguments, results, the SparseCores' calls and conditions do not count, as
    those lie in the tables (copies for a condition are instructions of their own); what is left are
    copies, gathers over devices, conversions and scratch memory.

    Args:
        hlo: The program as text.
        plan: The plan it was made for.

    Returns:
        The lines as they are in the text.
    """
    shapes: set[str] = set()
    for stack in plan.stacks:
        for rows in (stack.vocab_size // plan.topology.devices, stack.vocab_size):
            shapes |= {f"f32[{rows},{stack.width}]", f"f32[{stack.width},{rows}]"}
    found = []
    for line in hlo.splitlines():
        instruction = _INSTRUCTION.match(line)
        if instruction is None or instruction["kind"] in _IN_PLACE:
            continue
        if any(shape in instruction["result"] for shape in shapes):
            found.append(line.strip())
    return found


_INSTRUCTION = re.compile(r"\s+(ROOT )?%\S+ = (?P<result>.+?) (?P<kind>[a-z][\w-]*)\(")
_SPARSECORE_CALLS = ("custom-call-start", "custom-call-update", "custom-call-done")
_IN_PLACE = {
    "parameter",
    "get-tuple-element",
    "tuple",
    "bitcast",
    "conditional",
    *_SPARSECORE_CALLS,
}


def _laid[T](mesh: Mesh, tree: T) -> T:
    """Shapes with rows spread over the devices."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=spread(mesh)), tree
    )
