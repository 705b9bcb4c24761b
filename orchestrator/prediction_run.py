"""The hosts led through the parts of a prediction, and started anew where that can help.

Each attempt launches hosts, joins them, plans, restores the checkpoint, and gives every host one
part after another. Parts that are written stay written, so what an attempt loses is what its hosts
were at. What is wrong with hosts is judged by the policies that training has.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from orchestrator import checks, policies, states, verdict_events
from orchestrator.config import RunConfig
from orchestrator.errors import RunFailed
from orchestrator.hosts.interface import HostGroup, StacksSeen
from orchestrator.listening import Listener
from orchestrator.planning import Plan, Planner
from orchestrator.policies import Fatal, Lost, OverLimits, Verdict
from orchestrator.restarts import Restarts
from orchestrator.roster import Roster
from orchestrator.sizing import Sizing
from workers import protocol
from workers.prediction_protocol import HostCommand, Predict, Predicted
from workers.protocol import Assignment, Observed, merge_observed

__all__ = ["Interrupted", "PredictionRun"]

_POLL_SECONDS = 0.2
_PREDICTING = "predicting"


class Interrupted(Exception):
    """Somebody asked to stop; what is written stays."""


class _Wrong(Exception):
    """Something is wrong with the hosts."""

    def __init__(self, verdict: Verdict, doing: str) -> None:
        super().__init__(doing)
        self.verdict, self.doing = verdict, doing


class _Fewer(Exception):
    """Some hosts do not come: fewer are to be launched."""

    def __init__(self, hosts: int) -> None:
        super().__init__(hosts)
        self.hosts = hosts


class PredictionRun:
    """Has hosts write parts until none is left.

    Args:
        config: Numbers of hosts, and deadlines.
        group: The hosts.
        planner: Makes plans.
        data: Fingerprint of the data, as the driver sees it.
        step: The checkpoint to restore.
        parts: Numbers of the parts to write.
        say: Takes lines for people.
        done: Told after every round how many parts are written, and how many rows they have.
        clock: Seconds.

    Attributes:
        stopping: Set to have it stop.
    """

    def __init__(
        self,
        config: RunConfig,
        group: HostGroup,
        planner: Planner,
        *,
        data: str,
        step: int,
        parts: Sequence[int],
        say: Callable[[str], None],
        done: Callable[[int, int], None] = lambda parts, rows: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stopping = False
        self._config, self._settings = config, config.failures
        self._group, self._planner = group, planner
        self._data, self._step = data, step
        self._left, self._say, self._done = list(parts), say, done
        self._clock = clock
        self._listener = Listener(group, clock, config.failures)
        self._sizing = Sizing(config, group.room, group.awaits_room)
        self._restarts = Restarts(0)
        self._launch = -1
        self._written = 0
        self._roster = Roster(config.hosts)
        self._observed: dict[str, Observed] = {}
        self._plan: Plan | None = None
        self._planned_for: int | None = None

    def lead(self) -> None:
        """Write all parts.

        Raises:
            Interrupted: ``stopping`` was set.
            EmberayError: It cannot be done, or was tried too often.
        """
        fewer: int | None = None
        try:
            while self._left:
                try:
                    self._attempt(fewer)
                except _Wrong as wrong:
                    fewer = None
                    self._mend(wrong)
                except _Fewer as error:
                    fewer = error.hosts
                    self._say(f"not all hosts have started: going on with {fewer}")
        finally:
            self._group.kill_all()

    def _attempt(self, fewer: int | None) -> None:
        settings = self._settings
        self._group.kill_all()
        self._launch += 1
        hosts = self._sizing.launch(self._clock(), fewer)
        self._roster = Roster(hosts)
        self._say(f"starting {hosts} hosts")
        self._group.launch([Assignment(rank, hosts, self._launch) for rank in range(hosts)])
        hello = self._wait(states.Launching.doing, settings.launch_timeout, starting=True)
        joined = self._ask(protocol.Join(hello[0].address), states.Joining, settings.join_timeout)
        checks.check_mesh(joined, hosts, self._config.devices_per_host)
        plan = self._plan
        if plan is None or self._planned_for != hosts:
            seen = self._ask(protocol.Survey(), states.Surveying, settings.survey_timeout)
            known = merge_observed(*(reply.observed for reply in seen))
            plan = self._make_plan(known, hosts, None)
        prepare = protocol.Prepare(plan.to_json())
        prepared = self._ask(prepare, states.Preparing, settings.prepare_timeout)
        checks.check_plan(prepared, plan)
        checks.check_data(prepared, self._data)
        restore = protocol.Restore(self._step)
        restored = self._ask(restore, states.Restoring, settings.restore_timeout)
        checks.check_restored(restored, self._step)
        self._say(f"the checkpoint of step {self._step} is read; {len(self._left)} files to write")
        while self._left:
            parts = tuple(self._left[:hosts])
            self._roster.expect(Predicted)
            self._group.send(Predict(parts))
            self._took(parts, self._wait(_PREDICTING, settings.evaluate_timeout))
        self._ask(protocol.Finish(), states.Finishing, settings.finish_timeout)

    def _took(self, parts: Sequence[int], replies: Sequence[Predicted]) -> None:
        self._left = self._left[len(parts) :]
        self._written += len(parts)
        self._done(len(parts), sum(reply.rows for reply in replies))

    def _make_plan(self, known: dict[str, Observed], hosts: int, previous: Any) -> Plan:
        self._observed, self._planned_for = known, hosts
        version = 0 if self._plan is None else self._plan.version + 1
        plan = self._plan = self._planner.plan(known, previous, version, hosts)
        return plan

    def _ask(self, command: HostCommand, kind: type[states.Waiting], timeout: float) -> list[Any]:
        self._roster.expect(kind.reply)
        self._group.send(command)
        return self._wait(kind.doing, timeout)

    def _wait(self, doing: str, timeout: float, *, starting: bool = False) -> list[Any]:
        """The answers of all hosts.

        Raises:
            _Wrong: One died, froze, failed or is late.
            _Fewer: Fewer hosts are to be launched.
            Interrupted: ``stopping`` was set.
        """
        since = self._clock()
        while not self._roster.complete:
            if self.stopping:
                raise Interrupted
            heard = self._listener.hear(_POLL_SECONDS)
            since += heard.excuse(self._roster, since)
            for observation in heard.seen:
                if not isinstance(observation, StacksSeen):
                    self._roster.take(observation, heard.now)
            if self._roster.complete:
                break
            now, views = heard.now, self._roster.views
            if starting and (fewer := self._sizing.smaller(views, now - since)) is not None:
                raise _Fewer(fewer)
            verdict = policies.judge(
                views, doing=doing, deadline=since + timeout, now=now, settings=self._settings
            )
            if verdict is not None:
                raise _Wrong(verdict, doing)
        return self._roster.replies

    def _mend(self, wrong: _Wrong) -> None:
        """Get ready for another attempt.

        Raises:
            EmberayError: Another would not help, or too many did not.
        """
        verdict, hosts = wrong.verdict, self._sizing.hosts
        match verdict:
            case OverLimits(error=error):
                known = policies.observe_overflow(self._observed, error)
                if known is None:
                    raise error
                self._say(f"raising limits, as a batch needs more room: {error}")
                self._make_plan(known, hosts, self._plan)
            case Fatal():
                raise verdict_events.error_of(verdict, wrong.doing, self._last_words())
            case Lost():
                attempts = self._restarts.note_failure(self._written)
                if attempts > self._settings.max_restarts:
                    raise RunFailed(
                        f"gave up with {len(self._left)} parts to write, after {attempts} failures "
                        f"in a row without one written; the last: {verdict.reason}",
                        self._last_words(),
                    )
                self._say(f"starting anew: {verdict.reason}")
                self._group.kill_all()
                self._pause(policies.restart_pause(attempts, self._settings))

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self.stopping:
                raise Interrupted
            time.sleep(min(_POLL_SECONDS, seconds))

    def _last_words(self) -> dict[int, str]:
        return self._roster.last_words(self._clock(), self._group.last_words)
