"""The small part of ``doctor`` that every run on several nodes begins with.

One task a node is asked while the hosts are started; nobody waits for it. What it finds becomes
events of the run. Ports, chips and data are left out: the hosts themselves find those a moment
later, and processes that hold chips could be the run's own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.config import RunConfig
from orchestrator.doctor.facts import DRIVER, Answer, ClusterFacts
from orchestrator.doctor.findings import diagnose
from orchestrator.doctor.gathering import answer_here, marker_in, program_of, seconds_to_stop
from orchestrator.events import Diagnosed
from workers.probes import Questions

if TYPE_CHECKING:
    from orchestrator.hosts.node_probes import NodeAnswers

__all__ = ["LaunchCheck"]

SECONDS = 60.0
"""A node that has not answered by then is told of."""


class LaunchCheck:
    """Looks at the nodes of a run's cluster, beside its launch.

    Args:
        config: Of the run.
        run_folder: Its folder.
        tell: Is given what is wrong.

    Example:
        >>> check = LaunchCheck(config, Path("runs/first"), journal.record)     # doctest: +SKIP
        >>> check.begin()                                                       # doctest: +SKIP
        >>> while launching: check.advance()                                    # doctest: +SKIP
    """

    def __init__(
        self, config: RunConfig, run_folder: Path, tell: Callable[[Diagnosed], None]
    ) -> None:
        self._config = config
        self._folder = run_folder
        self._tell = tell
        self._questions = Questions(program=program_of(config), folder=str(run_folder))
        self._asked: NodeAnswers | None = None
        self._open = ExitStack()
        self._done = False

    def begin(self) -> None:
        """Ask the nodes, if there are several; does not wait for answers."""
        ray = sys.modules.get("ray")
        if ray is None or not ray.is_initialized():  # the hosts are not Ray's
            return
        from orchestrator.hosts.node_probes import NodeAnswers, alive_nodes

        nodes = alive_nodes()
        if len(nodes) > 1:
            marker = self._open.enter_context(marker_in(self._folder))
            self._questions = replace(self._questions, marker=marker)
            self._asked = NodeAnswers(nodes, self._questions, SECONDS)
            self._open.callback(self._asked.close)

    def advance(self) -> None:
        """Tell what is wrong, once: when all nodes have answered or are late. Does not wait."""
        if self._done:
            return
        answers: tuple[Answer, ...] = ()
        if self._asked is not None:
            collected = self._asked.collect()
            if collected is None:
                return
            answers = (answer_here(DRIVER, self._questions), *collected)
        self._done = True
        self.close()
        facts = ClusterFacts(
            answers,
            platform=self._config.platform,
            stop_seconds=seconds_to_stop(os.environ),
            grace=self._config.failures.preemption_grace,
        )
        for finding in diagnose(facts):
            if finding.severity != "note":
                self._tell(Diagnosed(**asdict(finding)))

    def close(self) -> None:
        """Take back what was asked. May be called twice."""
        self._open.close()
