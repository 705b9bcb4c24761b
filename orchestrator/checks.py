"""What the hosts' answers must agree on before the run goes on."""

from __future__ import annotations

import math
from collections.abc import Sequence

from orchestrator.errors import RunFailed
from orchestrator.planning import Plan
from workers.errors import CheckpointError, PlanMismatch
from workers.protocol import Joined, Lease, LeaseDone, Prepared, Restored

__all__ = ["check_committed", "check_leases", "check_mesh", "check_plan", "check_restored"]

_LOSS_TOLERANCE = 1e-3
"""Relative. All hosts report the same global loss; more than rounding apart means that they have
diverged, for example because one reads other data."""


def check_mesh(replies: Sequence[Joined], hosts: int, devices_per_host: int) -> None:
    """Every host must see its own devices and all others'.

    Raises:
        RunFailed: One sees more or fewer.
    """
    for reply in replies:
        expected = (devices_per_host, hosts * devices_per_host)
        if (reply.local_devices, reply.global_devices) != expected:
            raise RunFailed(
                f"host {reply.rank} sees {reply.local_devices} devices of its own and "
                f"{reply.global_devices} in the mesh, but devices_per_host is {devices_per_host} "
                f"and the run has {hosts} hosts: set devices_per_host to what each host has"
            )


def check_plan(replies: Sequence[Prepared], plan: Plan) -> None:
    """Every host must have arrived at the plan's hash.

    Raises:
        PlanMismatch: One has not.
    """
    for reply in replies:
        if reply.plan_hash != plan.hash:
            raise PlanMismatch(
                f"host {reply.rank} built plan {reply.plan_hash} from its specs, but plan version "
                f"{plan.version} has the hash {plan.hash}: make sure that all hosts run the same "
                "code and the same program"
            )


def check_restored(replies: Sequence[Restored], step: int | None) -> int:
    """Every host must hold the state of the step it was told to restore. Returns that step.

    Raises:
        CheckpointError: One holds another.
    """
    expected = step or 0
    for reply in replies:
        if reply.step != expected:
            raise CheckpointError(
                f"host {reply.rank} restored step {reply.step}, but was told to restore "
                f"{expected}: make sure that the run's folder is the same on all hosts"
            )
    return expected


def check_leases(replies: Sequence[LeaseDone], lease: Lease) -> None:
    """Every host must have run the lease, and arrived at the same losses.

    Raises:
        RunFailed: One has run other steps or arrived at other losses.
    """
    first = replies[0]
    for reply in replies:
        told = (lease.number, lease.first, lease.last, lease.last - lease.first)
        if (reply.lease, reply.first, reply.last, len(reply.losses)) != told:
            raise RunFailed(
                f"host {reply.rank} reports {len(reply.losses)} losses for the steps "
                f"[{reply.first}, {reply.last}) of lease {reply.lease}, but was told to run "
                f"[{lease.first}, {lease.last}) as lease {lease.number}"
            )
        for offset, (loss, other) in enumerate(zip(reply.losses, first.losses, strict=True)):
            if not math.isclose(loss, other, rel_tol=_LOSS_TOLERANCE, abs_tol=1e-6):
                raise RunFailed(
                    f"the hosts have diverged: at step {lease.first + offset} the loss is {loss} "
                    f"on host {reply.rank} and {other} on host {first.rank}: make sure that all "
                    "hosts read the same data"
                )


def check_committed(saved: int | None, committed: Sequence[int]) -> None:
    """The last checkpoint must be committed when the hosts have finished.

    Raises:
        CheckpointError: It is not.
    """
    if saved is not None and saved not in committed:
        raise CheckpointError(
            f"the checkpoint of step {saved} was saved but is not committed; committed are "
            f"{list(committed) or 'none'}: look for errors of the file system in the hosts' logs"
        )
