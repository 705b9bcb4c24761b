"""What the hosts' answers must agree on before the run goes on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from orchestrator.errors import RunFailed
from orchestrator.planning import Plan
from workers.errors import CheckpointError, DataError, PlanMismatch
from workers.protocol import Finished, Joined, Lease, LeaseDone, Prepared, Restored

__all__ = [
    "check_committed",
    "check_data",
    "check_leases",
    "check_mesh",
    "check_plan",
    "check_restored",
]


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


def check_data(replies: Sequence[Prepared], fingerprint: str) -> None:
    """Every host must see the files and row groups that the driver sees.

    Otherwise the hosts would train on other rows than the data order gives them, and nothing else
    would tell: losses are summed over all hosts, so they agree whatever each host reads.

    Args:
        replies: The hosts' answers.
        fingerprint: Of the data, as the driver sees it.

    Raises:
        DataError: One sees others.
    """
    for reply in replies:
        if reply.data != fingerprint:
            raise DataError(
                f"host {reply.rank} sees other data than the driver: the fingerprint of its file "
                f"names and row groups is {reply.data}, the driver's is {fingerprint}; make sure "
                "that the data's path holds the same files on every machine"
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
    """Every host must have run the steps of the lease, and report a loss for each.

    Raises:
        RunFailed: One has run other steps.
    """
    told = (lease.number, lease.first, lease.last, lease.last - lease.first)
    for reply in replies:
        if (reply.lease, reply.first, reply.last, len(reply.losses)) != told:
            raise RunFailed(
                f"host {reply.rank} reports {len(reply.losses)} losses for the steps "
                f"[{reply.first}, {reply.last}) of lease {reply.lease}, but was told to run "
                f"[{lease.first}, {lease.last}) as lease {lease.number}"
            )


def check_committed(
    saved: int | None, committed: Iterable[int], replies: Sequence[Finished]
) -> None:
    """The last checkpoint must be committed when the hosts have finished.

    A host's word counts as much as the driver's own look: on a network file system the driver may
    see a folder late that a host has made.

    Args:
        saved: Step of the last checkpoint, if there is one.
        committed: Steps that the driver sees.
        replies: The hosts' answers, with the steps that they see.

    Raises:
        CheckpointError: Nobody sees it.
    """
    seen = set(committed).union(*(reply.committed for reply in replies))
    if saved is not None and saved not in seen:
        raise CheckpointError(
            f"the checkpoint of step {saved} was saved but is not committed; committed are "
            f"{sorted(seen) or 'none'}: look for errors of the file system in the hosts' logs"
        )
