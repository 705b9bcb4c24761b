"""Joining the process group, and the one mesh over all its devices."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental.layout import Format
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from kernels.utils import embedding_table_format_with_sharding, num_sparsecores_per_device
from workers.chips import CHIPS_SECONDS, wait_for_chips
from workers.errors import PlanMismatch
from workers.protocol import RunSpec

__all__ = [
    "AXIS",
    "await_service",
    "check_mesh",
    "connect",
    "everywhere",
    "free_address",
    "join_mesh",
    "join_process_group",
    "leave_process_group",
    "make_mesh",
    "platform_of",
    "spread",
    "table_format",
]

AXIS = "devices"
"""Name of the mesh's only axis: samples and table rows are both spread over it."""

HEARTBEAT_SECONDS = 100
"""After this long without a process, JAX aborts the others. The driver's own deadlines are shorter:
this only ends processes whose driver is gone."""

LONGEST_TRY = 1.0
"""Seconds for one connection: where packets are dropped, the system would wait ever longer."""
FIRST_PAUSE, LONGEST_PAUSE = 0.01, 0.25
"""Seconds between two looks whether the coordination service is there, doubling from one to the
other."""


def free_address(host: str) -> str:
    """``host:port`` with a port that is free at this moment."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return f"{host}:{probe.getsockname()[1]}"


def join_process_group(coordinator: str, rank: int, hosts: int, timeout: float) -> None:
    """Join the hosts' process group; rank 0 holds the coordination service. One host needs none.

    Args:
        coordinator: ``host:port`` of the service.
        rank: This host's number, from 0.
        hosts: Number of hosts.
        timeout: Seconds to wait for all of them.

    Raises:
        RuntimeError: There is no service, or (from JAX) not all joined in time.
    """
    if hosts == 1:
        return
    began = time.monotonic()
    if rank and not await_service(coordinator, timeout):
        raise RuntimeError(
            f"host {rank}: nothing answers at {coordinator}, where host 0 serves those that join, "
            f"after {timeout:.0f} s; see host 0's log, and whether a firewall keeps hosts apart"
        )
    left = max(1.0, timeout - (time.monotonic() - began))
    # Its notice of preemption would take the place of the host's own handler of SIGTERM.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        coordinator_address=coordinator,
        num_processes=hosts,
        process_id=rank,
        cluster_detection_method="deactivate",
        initialization_timeout=int(left),
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=int(timeout),
    )


def await_service(address: str, timeout: float) -> bool:
    """Wait until a server listens at ``host:port``.

    JAX's client tries to connect at once, and if it comes before the service, not for another
    second.

    Returns:
        Whether one does; False after so many seconds.
    """
    host, _, port = address.rpartition(":")
    deadline, pause = time.monotonic() + timeout, FIRST_PAUSE
    while (left := deadline - time.monotonic()) > 0:
        try:
            place = host.strip("[]"), int(port)
            socket.create_connection(place, timeout=min(left, LONGEST_TRY)).close()
        except OSError:
            time.sleep(min(pause, left))
            pause = min(2 * pause, LONGEST_PAUSE)
        else:
            return True
    return False


def leave_process_group() -> None:
    """Leave the group once all have come to this point."""
    jax.distributed.shutdown()


def join_mesh(coordinator: str, rank: int, hosts: int, run: RunSpec) -> Mesh:
    """Join the hosts' process group, and make the mesh over all their devices.

    On TPUs it first waits until no other process has this host's chips.

    Args:
        coordinator: ``host:port`` of the coordination service.
        rank: This host's number, from 0.
        hosts: Number of hosts.
        run: Says how long to wait, and what the devices should be like.

    Raises:
        RuntimeError: See ``join_process_group``.
        ChipsTaken: See ``workers.chips.wait_for_chips``.
        PlanMismatch: See ``check_mesh``.
    """
    if run.platform == "tpu":
        # The others wait for this host to join.
        wait_for_chips(rank, min(CHIPS_SECONDS, run.join_timeout / 2))
    join_process_group(coordinator, rank, hosts, run.join_timeout)
    mesh = make_mesh()
    check_mesh(mesh, rank, jax.process_index(), run.sparsecores_per_device)
    if hosts > 1 and platform_of(mesh) != "tpu":
        connect(mesh)
    return mesh


def connect(mesh: Mesh) -> None:
    """Have all devices add up a number, while all hosts are at the same point.

    Hosts connect to each other in their first collective, in which gloo, which JAX has for CPUs,
    lets each wait 30 s for the others, and no longer: less than compiling the first step may take
    one host and not another, as it was kept. Later ones may wait as long as they must.

    Raises:
        RuntimeError: Not all could connect to each other.
    """
    ones = jax.make_array_from_callback((mesh.size,), spread(mesh), lambda _: np.ones(1, np.int32))
    total = jax.shard_map(
        lambda own: jax.lax.psum(own, AXIS),
        mesh=mesh,
        in_specs=PartitionSpec(AXIS),
        out_specs=PartitionSpec(),
    )
    try:
        jax.block_until_ready(jax.jit(total)(ones))
    except jax.errors.JaxRuntimeError as error:
        raise RuntimeError(
            "the hosts have joined, but could not all connect to each other; see whether a "
            f"firewall keeps their free ports apart: {error}"
        ) from error


def make_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh over all devices of all hosts, host by host; or over the devices given."""
    chosen = jax.devices() if devices is None else devices
    ordered = sorted(chosen, key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(ordered), (AXIS,))


def check_mesh(mesh: Mesh, rank: int, process: int, sparsecores_per_device: int) -> None:
    """Check that the TPUs are those the run was planned for; other devices are passed over.

    Args:
        mesh: All devices.
        rank: This host's number as the driver gave it.
        process: This host's number as JAX has it: TPUs number the hosts themselves.
        sparsecores_per_device: As the run was planned.

    Raises:
        PlanMismatch: The devices have another number of SparseCores, or hosts another order.
    """
    device = mesh.devices.flat[0]
    if device.platform != "tpu":
        return
    found = num_sparsecores_per_device(device)
    if found != sparsecores_per_device:
        raise PlanMismatch(
            f"host {rank}: a {device.device_kind} has {found} SparseCores, but the run is planned "
            f"for {sparsecores_per_device}; set cluster.topology to the slices that there are"
        )
    if process != rank:
        raise PlanMismatch(
            f"host {rank}: the TPUs count it as host {process}; hosts of a slice must have their "
            "ranks in the order of TPU_WORKER_ID, and slices in that of MEGASCALE_SLICE_ID"
        )


def platform_of(mesh: Mesh) -> str:
    """Platform of the mesh's devices, as JAX names it: ``cpu``, ``gpu`` or ``tpu``."""
    return mesh.devices.flat[0].platform


def spread(mesh: Mesh) -> NamedSharding:
    """Layout of arrays whose first dimension is cut over the devices."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def everywhere(mesh: Mesh) -> NamedSharding:
    """Layout of arrays every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def table_format(mesh: Mesh) -> Sharding | Format:
    """Layout of tables and slot variables: rows spread, on TPUs as SparseCores read them."""
    return embedding_table_format_with_sharding(NamedSharding(mesh, PartitionSpec(AXIS, None)))
