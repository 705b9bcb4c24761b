"""The run as a state machine.

``Controller.step`` polls the hosts once, and moves on if something has happened. It never waits
longer than the poll, so tests drive it with simulated hosts and a clock of their own, and every
state has a deadline, so a run always gets on or ends with an error. What to do is decided by the
pure functions of ``orchestrator.policies``; how to tell the hosts is the ``HostGroup``'s matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from kernels.errors import EmberayError
from orchestrator import checks, events, policies, reports, states, verdict_events
from orchestrator.config import RunConfig
from orchestrator.goodput import lease_shares
from orchestrator.hosts.interface import StacksSeen
from orchestrator.planning import Plan
from orchestrator.policies import Fatal, Lost, OverLimits, Verdict
from orchestrator.progress import History, Progress
from orchestrator.restarts import Restarts
from orchestrator.roster import Roster
from orchestrator.schedule import Schedule
from orchestrator.states import State, Waiting
from orchestrator.surroundings import Surroundings
from workers import protocol
from workers.errors import CheckpointError

__all__ = ["Controller"]

_SPLIT = "test"


class Controller:
    """Leads one run from launch to end.

    Args:
        config: The run's configuration.
        schedule: Its steps and marks.
        around: What it acts through.
        data: Fingerprint of the data, as the driver sees it.
        history: What earlier drivers of the run left behind.
        plan: The newest plan of an earlier driver, if there is one.
        poll_seconds: Longest wait for news in one ``step``.

    Attributes:
        state: Where the run is.
        progress: How far it has come.
        plan: The plan in force.
        restarts: Recoveries of the run.

    Example:
        >>> while not isinstance(controller.step(), states.Ended): pass     # doctest: +SKIP
    """

    def __init__(
        self,
        config: RunConfig,
        schedule: Schedule,
        around: Surroundings,
        *,
        data: str,
        history: History | None = None,
        plan: Plan | None = None,
        poll_seconds: float = 0.2,
    ) -> None:
        history = history or History()
        self.config = config
        self.schedule = schedule
        self.progress = Progress(schedule, history)
        self.plan = plan
        self.restarts = Restarts(history.restarts)
        self._around = around
        self._data = data
        self._limits = config.model_dump(mode="json")["limits"]
        made_for = history.limits, history.cluster
        self._plan_holds = made_for == (self._limits, (config.hosts, config.devices))
        self._settings = config.failures
        self._poll_seconds = poll_seconds
        self._launch = history.launches - 1
        self._leases = 0
        self._stopping = False
        self._stop_recorded = False
        self._roster = Roster(config.hosts)
        self.state: State = states.Created(since=around.clock())

    # What others ask for.

    def step(self) -> State:
        """Take what has happened, and move on if that is enough; the first step launches.

        Returns:
            The state that the run is in now.
        """
        if isinstance(self.state, states.Ended):
            return self.state
        if self._stopping and not self._stop_recorded:
            self._stop_recorded = True
            self._record(events.StopRequested())
        if isinstance(self.state, states.Created):
            self.state = self._launch_hosts()
            return self.state
        for observation in self._around.group.poll(self._poll_seconds):
            if isinstance(observation, StacksSeen):
                text = observation.text
                self._record(events.StacksDumped(observation.rank, self._launch, text))
            else:
                self._roster.take(observation, self._now())
        self.state = self._next(self.state)
        return self.state

    def request_stop(self) -> None:
        """Save at the end of the lease that runs, then leave. Safe in a signal handler."""
        self._stopping = True

    # The way through the states.

    def _next(self, state: State) -> State:
        now = self._now()
        if self._stopping and not isinstance(
            state, states.Training | states.Evaluating | states.Finishing
        ):
            return self._end(events.Interrupted, states.Interrupted)
        if isinstance(state, states.Recovering):
            return state if now < state.until else self._launch_hosts()
        waiting = cast(Waiting, state)
        if self._roster.complete:
            try:
                return self._advance(waiting)
            except EmberayError as error:
                return self._fail(error)
        verdict = policies.judge(
            self._roster.views,
            doing=waiting.doing,
            deadline=waiting.deadline,
            now=now,
            settings=self._settings,
        )
        return state if verdict is None else self._trouble(verdict, waiting)

    def _advance(self, state: Waiting) -> State:
        """All hosts have answered: what follows."""
        replies = self._roster.replies
        config, settings = self.config, self._settings
        match state:
            case states.Launching():
                for hello in replies:
                    self._record(
                        events.HostStarted(hello.rank, hello.pid, hello.node, self._launch)
                    )
                command = protocol.Join(replies[0].address)
                return self._command(states.Joining, command, settings.join_timeout)
            case states.Joining():
                checks.check_mesh(replies, config.hosts, config.devices_per_host)
                self._record(events.MeshJoined(self._launch, config.hosts, config.devices))
                if self.plan is not None and self._plan_holds:
                    return self._prepare(self.plan)
                return self._command(states.Surveying, protocol.Survey(), settings.survey_timeout)
            case states.Surveying():
                return self._prepare(self._first_plan(replies))
            case states.Preparing(plan=plan):
                checks.check_plan(replies, plan)
                checks.check_data(replies, self._data)
                self._record(events.PlanConfirmed(plan.version, plan.hash))
                return self._restore()
            case states.Restoring():
                self._restored(state, replies)
            case states.Training():
                self._lease_done(state, replies)
            case states.Evaluating():
                self._evaluated(state, replies)
            case _:
                return self._finished(replies)
        return self._go_on()

    def _go_on(self) -> State:
        """The hosts hold the state of a step and wait: evaluate, train, save or finish."""
        schedule, progress = self.schedule, self.progress
        step = progress.step
        leaving = self._stopping or step >= schedule.total_steps
        if progress.evaluation_missing and not self._stopping:
            command = protocol.Evaluate(_SPLIT)
            return self._command(
                states.Evaluating, command, self._settings.evaluate_timeout, split=_SPLIT
            )
        if leaving and (step == 0 or progress.saved == step):
            return self._command(states.Finishing, protocol.Finish(), self._settings.finish_timeout)
        plan_hash = cast(Plan, self.plan).hash
        if leaving:
            lease = policies.saving_lease(step, self._leases, plan_hash)
        else:
            lease = policies.next_lease(schedule, step, self._leases, plan_hash)
        self._leases += 1
        return self._command(
            states.Training, protocol.RunLease(lease), self._settings.lease_timeout, lease=lease
        )

    def _launch_hosts(self) -> State:
        now, group = self._now(), self._around.group
        group.kill_all()
        self._launch += 1
        self._roster = Roster(self.config.hosts)
        self._record(events.Launching(self._launch, self.config.hosts))
        self._around.ledger.enter(states.Launching.time_kind, now)
        group.launch(
            [
                protocol.Assignment(rank, self.config.hosts, self._launch)
                for rank in range(self.config.hosts)
            ]
        )
        deadline = now + self._settings.launch_timeout
        return states.Launching(since=now, deadline=deadline, launch=self._launch)

    def _prepare(self, plan: Plan) -> State:
        return self._command(
            states.Preparing,
            protocol.Prepare(plan.to_json()),
            self._settings.prepare_timeout,
            plan=plan,
        )

    def _restore(self) -> State:
        recorded = self.progress.recorded
        step = policies.checkpoint_to_restore(self._around.committed(), recorded)
        self._record(events.Restoring(step))
        if step is not None and step > recorded:
            self._record(events.StepsUnrecorded(recorded, step))
        return self._command(
            states.Restoring, protocol.Restore(step), self._settings.restore_timeout, step=step
        )

    def _command(
        self, kind: type[Waiting], command: protocol.Command, timeout: float, **fields: Any
    ) -> State:
        """Send every host a command, and wait for the answers in a state of this kind."""
        now = self._now()
        self._roster.expect(kind.reply)
        self._around.group.send(command)
        self._around.ledger.enter(kind.time_kind, now)
        return kind(since=now, deadline=now + timeout, **fields)

    # What answers mean.

    def _first_plan(self, replies: Sequence[protocol.Surveyed]) -> Plan:
        """The first plan of the run, or the first one for other hosts or ``limits`` than before."""
        surveyed = reports.survey_report(replies)
        self._record(surveyed)
        self.progress.observed = dict(surveyed.observed)
        return self._make_plan(None, 0 if self.plan is None else self.plan.version + 1)

    def _make_plan(self, previous: Plan | None, version: int) -> Plan:
        plan = self._around.planner.plan(self.progress.observed, previous, version)
        self._record(events.PlanMade(plan.version, plan.hash, self._limits, plan.to_json()))
        self.plan, self._plan_holds = plan, True
        return plan

    def _restored(self, state: states.Restoring, replies: Sequence[protocol.Restored]) -> None:
        step = checks.check_restored(replies, state.step)
        self.progress.restore(step)
        self._record(events.Restored(step))

    def _lease_done(self, state: states.Training, replies: Sequence[protocol.LeaseDone]) -> None:
        now, lease = self._now(), state.lease
        checks.check_leases(replies, lease)
        elapsed = now - state.since
        report = reports.lease_report(
            replies, lease, launch=self._launch, elapsed=elapsed, schedule=self.schedule
        )
        repeated = self.progress.lease_done(replies, lease.save, elapsed)
        self._around.ledger.split(lease_shares(report.seconds, elapsed, repeated), now)
        self._record(report)
        if lease.save:
            self._record(events.CheckpointStarted(lease.last))
            self.progress.forget_snapshots(self._around.committed())

    def _evaluated(self, state: states.Evaluating, replies: Sequence[protocol.Evaluated]) -> None:
        step, elapsed = self.progress.step, self._now() - state.since
        report = reports.evaluation_report(replies, step, elapsed=elapsed, schedule=self.schedule)
        self.progress.evaluations[step] = dict(report.metrics)
        self._record(report)

    def _finished(self, replies: Sequence[protocol.Finished]) -> State:
        checks.check_committed(self.progress.saved, self._around.committed(), replies)
        if self.progress.complete:
            return self._end(events.Finished, states.Finished)
        return self._end(events.Interrupted, states.Interrupted)

    # What goes wrong, and how it ends.

    def _trouble(self, verdict: Verdict, state: Waiting) -> State:
        for event in verdict_events.trouble_events(verdict, self._launch, self._now()):
            self._record(event)
        try:
            match verdict:
                case Fatal():
                    if self._skip_checkpoint(verdict.error, state):
                        rank = verdict.culprit.rank
                        return self._recover("checkpoint", (rank,), str(verdict.error))
                    words = self._last_words()
                    return self._fail(verdict_events.error_of(verdict, state.doing, words))
                case OverLimits():
                    if self._replan(verdict):
                        return self._recover("limits", (verdict.culprit.rank,), str(verdict.error))
                    return self._fail(verdict.error)
                case Lost():
                    return self._lost(verdict)
        except EmberayError as error:
            return self._fail(error)

    def _lost(self, verdict: Lost) -> State:
        """Start anew, unless that has been tried often enough."""
        attempts = self.restarts.note_failure(self.progress.furthest)
        if attempts > self._settings.max_restarts:
            furthest, last_words = self.progress.furthest, self._last_words()
            return self._fail(verdict_events.gave_up(verdict, furthest, attempts, last_words))
        wait = policies.restart_pause(attempts, self._settings)
        if verdict.hanging:
            wait = max(wait, self._settings.grace)
            for host in self._roster.views:
                if host.hello is not None and host.died is None:
                    self._around.group.dump_stacks(host.rank)
        ranks = tuple(host.rank for host in verdict.culprits)
        return self._recover(
            verdict.cause, ranks, verdict.reason, wait=wait, stacks_awaited=verdict.hanging
        )

    def _recover(
        self,
        cause: str,
        culprits: Sequence[int],
        reason: str,
        *,
        wait: float = 0.0,
        stacks_awaited: bool = False,
    ) -> State:
        now, step = self._now(), self.progress.step
        self.restarts.total += 1
        self._around.ledger.enter("recovering", now, spent_as="recovering")
        self._record(events.Recovering(cause, culprits, reason, step, self.restarts.in_a_row))
        if not stacks_awaited:
            self._around.group.kill_all()
        return states.Recovering(since=now, until=now + wait)

    def _skip_checkpoint(self, error: Exception, state: Waiting) -> bool:
        """Set a checkpoint aside that cannot be restored; False if it is not that, or the last."""
        if not isinstance(error, CheckpointError) or not isinstance(state, states.Restoring):
            return False
        if not set(self._around.committed()) - {state.step} or state.step is None:
            return False
        self._around.group.kill_all()
        self._around.set_aside(state.step)
        self._record(events.CheckpointSkipped(state.step, str(error)))
        return True

    def _replan(self, verdict: OverLimits) -> bool:
        """Make a plan with room for the batch that did not fit; False if that cannot help."""
        overflows, fixed = verdict.error.overflows, self.config.fixed_limits
        known = policies.observe_overflow(self.progress.observed, verdict.error)
        by_hand = any(overflow.stack in fixed for overflow in overflows)
        if known is None or by_hand or self.plan is None:
            return False
        self.progress.observed = known
        version = self.plan.version + 1
        for over in overflows:
            self._record(
                events.Replanned(version, over.stack, over.limit, over.allowed, over.observed)
            )
        self._make_plan(self.plan, version)
        return True

    def _fail(self, error: Exception) -> State:
        now, last_words = self._now(), self._last_words()
        self._around.group.kill_all()
        self._around.ledger.enter("recovering", now, spent_as="recovering")
        self._record(
            events.Failed(type(error).__name__, str(error), self.progress.step, last_words)
        )
        return states.Failed(since=now, error=error)

    def _end(
        self,
        event: type[events.Finished] | type[events.Interrupted],
        state: type[states.Finished] | type[states.Interrupted],
    ) -> State:
        self._around.group.kill_all()
        self._record(event(self.progress.step))
        return state(since=self._now())

    def _last_words(self) -> dict[int, str]:
        return self._roster.last_words(self._now(), self._around.group.last_words)

    def _record(self, event: events.Event) -> None:
        self._around.journal.record(event)

    def _now(self) -> float:
        return self._around.clock()
