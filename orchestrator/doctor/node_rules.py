"""What every node of a cluster must have for itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from orchestrator.doctor.facts import ClusterFacts
from orchestrator.doctor.finding import Finding, listed

__all__ = [
    "LEAST_FREE",
    "LEAST_OPEN_FILES",
    "LEAST_SHM",
    "few_open_files",
    "held_chips",
    "little_shared_memory",
    "missing_kernels",
    "missing_programs",
    "short_stops",
    "silent_nodes",
    "too_small",
    "unreached_nodes",
    "unusable_data",
    "unusable_folders",
]

LEAST_SHM: Mapping[str, int] = {"cpu": 128 << 20, "tpu": 128 << 20, "gpu": 1 << 30}
"""Bytes of /dev/shm by platform. Ray keeps commands and replies there; NCCL much more."""
LEAST_OPEN_FILES = 8192
"""Files that a process should be able to open: a socket for every other process, and the data."""
LEAST_FREE = 1 << 30
"""Bytes that should be free in the run's folder."""


def silent_nodes(facts: ClusterFacts) -> Iterator[Finding]:
    """Every node must answer."""
    for answer in facts.answers:
        if answer.facts is None:
            yield Finding(
                "answers",
                "error",
                (answer.node,),
                answer.trouble or "it did not answer",
                "install emberay there as on the others (`uv sync`), and see whether Ray still "
                "runs there (`ray status`)",
            )


def too_small(facts: ClusterFacts) -> Iterator[Finding]:
    """The cluster must have a place for every host."""
    if facts.missing:
        yield Finding(
            "room",
            "error",
            (),
            facts.missing,
            "add nodes, or change hosts, cluster.topology or what a host asks for",
        )


def missing_programs(facts: ClusterFacts) -> Iterator[Finding]:
    """The program's module must be found on every node."""
    for where, node in facts.known():
        if node.program == "":
            yield Finding(
                "program",
                "error",
                (where,),
                "the program's module is not found",
                "submit the folder that it lies in (`ray job submit --working-dir`), or install it "
                "there",
            )


def unreached_nodes(facts: ClusterFacts) -> Iterator[Finding]:
    """Nodes must be able to connect to each other."""
    for sender, troubles in facts.unreached.items():
        for trouble in sorted(set(troubles.values())):
            receivers = [name for name, said in troubles.items() if said == trouble]
            yield Finding(
                "ports",
                "error",
                (sender,),
                f"{listed(receivers)} cannot be connected to on a free port: {trouble}",
                "open the ports of net.ipv4.ip_local_port_range (32768 to 60999) between the "
                "nodes: JAX's coordinator and the hosts' collectives take some of them",
            )


def held_chips(facts: ClusterFacts) -> Iterator[Finding]:
    """Chips must be free."""
    for where, node in facts.known():
        for holder in node.holders:
            yield Finding(
                "chips",
                "error" if facts.platform == "tpu" else "warning",
                (where,),
                holder.told,
                f"end it there (`kill {holder.pid}`), if no run of yours needs it"
                if holder.pid
                else "look on the machine itself, outside of the container",
            )
        if node.closed_lock:
            yield Finding(
                "chips",
                "error",
                (where,),
                f"{node.closed_lock}, so libtpu will not start",
                "remove it there (`sudo rm /tmp/libtpu_lockfile`) once no process uses the TPU",
            )


def unusable_folders(facts: ClusterFacts) -> Iterator[Finding]:
    """All must see, and be able to write to, the same run folder."""
    for where, node in facts.known():
        folder = node.folder
        if folder is None:
            continue
        share = "put run folders on storage that all nodes have mounted at the same path, and give "
        share += "--run-dir"
        if folder.missing or not folder.shared:
            what = "is not there" if folder.missing else "is another one than the driver's"
            yield Finding("run folder", "error", (where,), f"{folder.path} {what}", share)
        elif folder.trouble:
            yield Finding(
                "run folder",
                "error",
                (where,),
                f"{folder.path} cannot be written to: {folder.trouble}",
                "look at its mount and its permissions there",
            )
        elif folder.free_bytes is not None and folder.free_bytes < LEAST_FREE:
            yield Finding(
                "run folder",
                "warning",
                (where,),
                f"{folder.path} has {folder.free_bytes >> 20:,} MiB left",
                "make room: checkpoints hold all tables",
            )


def unusable_data(facts: ClusterFacts) -> Iterator[Finding]:
    """All must be able to read the data."""
    for where, node in facts.known():
        data = node.data
        if data is None or not (data.missing or data.trouble):
            continue
        what = data.trouble if data.missing and data.trouble else f"{data.path}: {data.trouble}"
        yield Finding(
            "data",
            "error",
            (where,),
            what,
            "put the data on storage that all nodes share, at the same path, or in an object "
            "store that they may read",
        )


def little_shared_memory(facts: ClusterFacts) -> Iterator[Finding]:
    """There must be shared memory."""
    least = LEAST_SHM[facts.platform]
    for where, node in facts.known():
        if node.shm_bytes is not None and node.shm_bytes < least:
            yield Finding(
                "shared memory",
                "warning",
                (where,),
                f"/dev/shm has {node.shm_bytes >> 20:,} MiB, fewer than {least >> 20:,}",
                "start the container with more (docker: --shm-size=4g; Kubernetes: an emptyDir "
                "with medium Memory at /dev/shm)",
            )


def few_open_files(facts: ClusterFacts) -> Iterator[Finding]:
    """Processes must be able to open many files."""
    for where, node in facts.known():
        # -1 is without limit.
        if 0 < node.open_files < LEAST_OPEN_FILES:
            yield Finding(
                "open files",
                "warning",
                (where,),
                f"a process may have {node.open_files:,} files open, fewer than "
                f"{LEAST_OPEN_FILES:,}",
                "say `ulimit -n 65536` before `ray start`",
            )


def missing_kernels(facts: ClusterFacts) -> Iterator[Finding]:
    """The C++ parts that the platform needs must have been built."""
    for where, node in facts.known():
        for module, why in sorted(node.kernels.items()):
            if module == "kernels._cpu_kernels" and facts.platform != "cpu":
                continue
            yield Finding(
                "kernels",
                "warning",
                (where,),
                f"the C++ module {module} cannot be loaded ({why}): its work is done many times "
                "slower, and all hosts wait for the slowest",
                "install a C++ compiler there, and emberay again (`uv sync --reinstall-package "
                "emberay`)",
            )


def short_stops(facts: ClusterFacts) -> Iterator[Finding]:
    """A job must be left the time to save when it is stopped."""
    if facts.stop_seconds is not None and facts.stop_seconds < facts.grace:
        yield Finding(
            "job",
            "warning",
            (),
            f"`ray job stop` would kill this job {facts.stop_seconds:g} s after it has told it to "
            f"stop, but saving may take failures.preemption_grace, {facts.grace:g} s",
            f"set RAY_JOB_STOP_WAIT_TIME_S={int(facts.grace) + 5} where Ray's head is started, or "
            "for the job in --runtime-env-json",
        )
