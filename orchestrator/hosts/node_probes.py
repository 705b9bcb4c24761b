"""Asking every node of a Ray cluster what it is like: one process a node, every wait bounded."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.doctor.facts import Answer
from workers.probes import Ear, NodeFacts, Peer, Questions, look, reach

__all__ = ["NodeAnswers", "NodeProbes", "RayNode", "alive_nodes", "chosen_peers"]

_PINGS = 3
_CLOCK_SECONDS = 15.0
"""Time for all clocks to be read again."""
_LISTEN_SECONDS = 10.0
_REACH_SECONDS = 5.0
"""Time for one connection."""
_ALL_REACH_SECONDS = 15.0
_MOST_PEERS = 64
"""Nodes that each node connects to: the first, and those that come next after itself."""


@dataclass(frozen=True)
class RayNode:
    """A node of the cluster that is alive."""

    id: str
    name: str
    """For people: the machine, and the beginning of the id, as a machine may be several nodes."""
    address: str


def alive_nodes() -> tuple[RayNode, ...]:
    """The nodes of the cluster, by name."""
    nodes = [
        RayNode(
            node["NodeID"],
            f"{node['NodeManagerHostname']} ({node['NodeID'][:6]})",
            node["NodeManagerAddress"],
        )
        for node in ray.nodes()
        if node["Alive"]
    ]
    return tuple(sorted(nodes, key=lambda node: (node.name, node.id)))


class NodeAnswers:
    """One task a node, that looks at it. Asking does not wait, and collecting need not.

    Args:
        nodes: Whom to ask.
        questions: What.
        seconds: A node that has not answered by then counts as silent.
    """

    def __init__(self, nodes: Sequence[RayNode], questions: Questions, seconds: float) -> None:
        self._asked = time.time()
        self._deadline = time.monotonic() + seconds
        self._seconds = seconds
        task = ray.remote(look)
        self._pending: dict[Any, str] = {
            task.options(**_options(node), max_retries=0).remote(questions): node.name
            for node in nodes
        }
        self._answers: list[Answer] = []

    def collect(self) -> tuple[Answer, ...] | None:
        """All answers, once each node has given one or is late; None before. Does not wait."""
        late = time.monotonic() > self._deadline
        ready, _ = ray.wait(list(self._pending), num_returns=len(self._pending), timeout=0)
        for reference in ready:
            self._answers.append(_answer(self._pending.pop(reference), reference, self._asked))
        if late:
            self.close()
        return None if self._pending else tuple(sorted(self._answers, key=lambda one: one.node))

    def close(self) -> None:
        """Give up those that have not answered. May be called twice."""
        for reference, node in self._pending.items():
            ray.cancel(reference, force=True)
            self._answers.append(Answer(node, None, _silent(self._seconds)))
        self._pending.clear()


class NodeProbes:
    """A process on every node, that looks at it and connects to others.

    Args:
        nodes: Whom to ask.
        seconds: Time for all processes to start and to look around.
    """

    def __init__(self, nodes: Sequence[RayNode], seconds: float) -> None:
        self._nodes = tuple(nodes)
        self._seconds = seconds
        made = ray.remote(_Probe)
        self._actors: dict[str, Any] = {
            node.name: made.options(**_options(node)).remote() for node in nodes
        }

    def look(self, questions: Questions) -> tuple[Answer, ...]:
        """What every node is like. Clocks are compared while nothing else is done."""
        asked = time.time()
        references = {name: actor.look.remote(questions) for name, actor in self._actors.items()}
        answers = _all(references, asked, self._seconds)
        for answer in answers:
            if answer.facts is None:  # it would only be waited for again
                ray.kill(self._actors.pop(answer.node), no_restart=True)
        deadline = time.monotonic() + _CLOCK_SECONDS
        return tuple(self._with_clock(answer, deadline) for answer in answers)

    def unreached(self) -> dict[str, dict[str, str]]:
        """By node: the nodes it cannot connect to, each with the reason."""
        greeting = secrets.token_hex(8)
        found: dict[str, dict[str, str]] = {}
        ports = _values(
            {name: actor.listen.remote(greeting) for name, actor in self._actors.items()},
            _LISTEN_SECONDS,
        )
        peers = []
        for node in self._nodes:
            port = ports.get(node.name)
            if isinstance(port, int):
                peers.append(Peer(node.name, node.address, port))
            elif node.name in self._actors:
                found[node.name] = {node.name: "it stopped answering"}
        asked = {
            peer.name: self._actors[peer.name].reach.remote(
                chosen_peers(peers, place), greeting, _REACH_SECONDS
            )
            for place, peer in enumerate(peers)
        }
        troubles = _values(asked, _ALL_REACH_SECONDS)
        for name in asked:
            told = troubles.get(name)
            if not isinstance(told, Mapping):
                found[name] = {
                    "other nodes": f"the attempt took more than {_ALL_REACH_SECONDS:g} s"
                }
            elif told:
                found[name] = dict(told)
        return found

    def close(self) -> None:
        """End the processes. May be called twice."""
        for actor in self._actors.values():
            ray.kill(actor, no_restart=True)
        self._actors = {}

    def _with_clock(self, answer: Answer, deadline: float) -> Answer:
        """The answer with the clock of the quickest of some more, that do nothing but tell it."""
        if answer.facts is None:
            return answer
        best = answer
        for _ in range(_PINGS):
            asked = time.time()
            reference = self._actors[answer.node].clock.remote()
            clock = _values({"": reference}, max(0.0, deadline - time.monotonic())).get("")
            answered = time.time()
            if isinstance(clock, float) and answered - asked < best.answered - best.asked:
                facts = replace(answer.facts, clock=clock)
                best = Answer(answer.node, facts, asked=asked, answered=answered)
        return best


class _Probe:
    """What runs on a node."""

    def __init__(self) -> None:
        self._ear: Ear | None = None

    def look(self, questions: Questions) -> NodeFacts:
        return look(questions)

    def clock(self) -> float:
        return time.time()

    def listen(self, greeting: str) -> int:
        self._ear = Ear(greeting)
        return self._ear.port

    def reach(self, peers: Sequence[Peer], greeting: str, seconds: float) -> dict[str, str]:
        return reach(peers, greeting, seconds)


def chosen_peers(peers: Sequence[Peer], place: int) -> list[Peer]:
    """Whom a node connects to: all others of a few, or the first and those after it of many.

    The first stands for the host that the others join; neighbours make sure that every node is
    connected to by many.

    Args:
        peers: All nodes, in the same order for each.
        place: Which of them the node is.
    """
    after = [*peers[place + 1 :], *peers[:place]][:_MOST_PEERS]
    first = [peers[0]] if place and peers[0] not in after else []
    return [*first, *after]


def _options(node: RayNode) -> dict[str, Any]:
    """On this node alone, taking nothing from anybody, tried once."""
    strategy = NodeAffinitySchedulingStrategy(node.id, soft=False)
    return {"num_cpus": 0, "scheduling_strategy": strategy}


def _all(references: Mapping[str, Any], asked: float, seconds: float) -> list[Answer]:
    """What came within so many seconds."""
    names = {reference: name for name, reference in references.items()}
    deadline = time.monotonic() + seconds
    answers: list[Answer] = []
    pending = list(names)
    while pending and time.monotonic() < deadline:
        ready, pending = ray.wait(pending, timeout=deadline - time.monotonic())
        answers += [_answer(names[reference], reference, asked) for reference in ready]
    answers += [Answer(names[reference], None, _silent(seconds)) for reference in pending]
    return sorted(answers, key=lambda answer: answer.node)


def _answer(name: str, reference: Any, asked: float) -> Answer:
    """Of a node whose result is there."""
    try:
        return Answer(name, ray.get(reference), asked=asked, answered=time.time())
    except Exception as error:  # whatever a node without our code may raise
        return Answer(name, None, _words(error))


def _values(references: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """The results that come within so many seconds."""
    names = {reference: name for name, reference in references.items()}
    if not names:
        return {}
    ready, _ = ray.wait(list(names), num_returns=len(names), timeout=seconds)
    found: dict[str, Any] = {}
    for reference in ready:
        with suppress(RayError):  # the process is gone
            found[names[reference]] = ray.get(reference)
    return found


def _silent(seconds: float) -> str:
    return f"no answer within {seconds:g} s"


def _words(error: Exception) -> str:
    """The last line of what Ray says, which is the cause."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:400]
