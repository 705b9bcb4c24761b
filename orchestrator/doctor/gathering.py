"""Gathering facts: on the nodes of a cluster, or on this machine where there is no cluster."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from orchestrator.config import RunConfig
from orchestrator.doctor.facts import DRIVER, Answer, ClusterFacts
from orchestrator.machines import hosts_that_fit, resources_of_host
from orchestrator.own_data import COLUMNS_PROGRAM
from orchestrator.slices import intact_slices, what_is_missing
from workers.errors import ProgramError
from workers.probes import Questions, look
from workers.probes.storage import existing, marked

__all__ = [
    "answer_here",
    "gather",
    "marker_in",
    "missing_room",
    "program_of",
    "seconds_to_stop",
]

LOOK_SECONDS = 60.0
"""Time for a process to start on every node and look around."""
STORAGE_SECONDS = 10.0
"""Longest wait for a storage."""


def gather(config: RunConfig, run_folder: Path) -> ClusterFacts:
    """Ask all nodes of the cluster that a run would use, or this machine alone.

    Takes some seconds, and two minutes at most once Ray is reached: every wait has a deadline.

    Args:
        config: Of the run.
        run_folder: Where it would be; it need not exist.

    Raises:
        ClusterError: The cluster cannot be reached.
    """
    folder = existing(run_folder.absolute())
    with marker_in(folder) as marker:
        questions = Questions(
            platform=config.platform,
            program=program_of(config),
            folder=str(folder),
            marker=marker,
            data=_data(config),
            seconds=STORAGE_SECONDS,
        )
        if not (config.cluster.address or os.environ.get("RAY_ADDRESS")):
            return _cluster(config, (answer_here(socket.gethostname(), questions),))
        return _gather_from_nodes(config, questions)


def answer_here(name: str, questions: Questions) -> Answer:
    """What this process answers itself."""
    asked = time.time()
    return Answer(name, look(questions), asked=asked, answered=time.time())


@contextmanager
def marker_in(folder: Path) -> Iterator[str | None]:
    """The name of a file in a folder, for as long as the block lasts.

    None where none can be put there, which the driver's own look then tells.
    """
    try:
        file = marked(folder)
    except OSError:
        yield None
        return
    try:
        yield file.name
    finally:
        file.unlink(missing_ok=True)


def program_of(config: RunConfig) -> str:
    """The program that a run would train."""
    return config.program if config.label is None else COLUMNS_PROGRAM


def seconds_to_stop(environment: Mapping[str, str]) -> float | None:
    """How long ``ray job stop`` waits before it kills this process; None if it is no job's.

    Ray's default is 3 s; a value that it could not read, it would not get this far with.
    """
    try:
        job = json.loads(environment.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    except ValueError:
        return None
    if "job_submission_id" not in (job.get("metadata") or {}):
        return None
    told = environment.get("RAY_JOB_STOP_WAIT_TIME_S", "")
    return float(told) if told.isdecimal() else 3.0


def missing_room(config: RunConfig, nodes: Sequence[Mapping[str, Any]]) -> str:
    """Why a cluster has no place for all hosts, by what its nodes have in all; empty if it has.

    Args:
        config: Of the run.
        nodes: As ``ray.nodes()`` lists them.
    """
    cluster = config.cluster
    topology = cluster.slice_topology
    if topology is not None:
        there = len(intact_slices(nodes, topology))
        return "" if there >= topology.slices else what_is_missing(nodes, topology)
    needs = resources_of_host(cluster, config.devices_per_host)
    if not needs:
        return ""
    apart = cluster.placement == "STRICT_SPREAD"
    there = {node["NodeID"]: node["Resources"] for node in nodes if node["Alive"]}
    places = hosts_that_fit(there, needs, apart=apart)
    asked = ", ".join(f"{name}: {amount:g}" for name, amount in needs.items())
    own = ", on nodes of their own" if apart else ""
    enough = places >= config.hosts
    return "" if enough else f"there is room for {places} of {config.hosts} hosts with {asked}{own}"


def _gather_from_nodes(config: RunConfig, questions: Questions) -> ClusterFacts:
    from orchestrator.ray_session import RaySession

    with RaySession(config.cluster, config.hosts):
        import ray

        from orchestrator.hosts.node_probes import NodeProbes, alive_nodes

        probes = NodeProbes(alive_nodes(), LOOK_SECONDS)
        try:
            answers = probes.look(questions)
            unreached = probes.unreached()
        finally:
            probes.close()
        missing = missing_room(config, ray.nodes())
    answers = (answer_here(DRIVER, questions), *answers)
    return _cluster(config, answers, unreached=unreached, missing=missing)


def _cluster(config: RunConfig, answers: tuple[Answer, ...], **fields: Any) -> ClusterFacts:
    topology = config.cluster.slice_topology
    return ClusterFacts(
        answers,
        platform=config.platform,
        chips_per_host=topology.chips_per_host if topology else 0,
        stop_seconds=seconds_to_stop(os.environ),
        grace=config.failures.preemption_grace,
        **fields,
    )


def _data(config: RunConfig) -> str | None:
    """Where the data is: as given, or the program's own; None where that cannot be told."""
    from workers.data.files import absolute_data

    if config.data is not None:
        return absolute_data(config.data)
    from workers.planning import resolve_data
    from workers.program import load_program

    with suppress(ProgramError):  # the program is looked for besides
        return absolute_data(resolve_data(load_program(config.program, config.parameters), None))
    return None
