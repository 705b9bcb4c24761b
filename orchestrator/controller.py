"""The run as a state machine.

``Controller.step`` polls the hosts once, and moves on if something has happened. It never waits
longer than the poll, so tests drive it with simulated hosts and a clock of their own, and every
state has a deadline, so a run always gets on or ends with an error. What to do is decided by the
pure functions of ``orchestrator.policies``; how to tell the hosts is the ``HostGroup``'s matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from kernels.errors import EmberayError
from orchestrator import braking, checks, events, policies, states, verdict_events
from orchestrator.answers import Answers
from orchestrator.config import RunConfig
from orchestrator.hosts.interface import StacksSeen
from orchestrator.listening import Listener
from orchestrator.planning import Plan
from orchestrator.plans import Plans
from orchestrator.progress import History, Progress
from orchestrator.restarts import Restarts
from orchestrator.roster import HostView, Roster
from orchestrator.schedule import Schedule
from orchestrator.sizing import Handover, Sizing
from orchestrator.states import State, Waiting
from orchestrator.storage import Storage
from orchestrator.surroundings import Surroundings
from orchestrator.trouble import GiveUp, Recover, Trouble
from workers import protocol

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
        plans: The plan in force.
        restarts: Recoveries of the run.
        sizing: How many hosts there are.

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
        self.plans = Plans(config, around.planner, around.journal, plan, history)
        self.restarts = Restarts(history.restarts)
        self.sizing = Sizing(config, around.group.room, around.group.awaits_room)
        self._around = around
        self._data = data
        self._settings = config.failures
        self._storage = Storage(around.free)
        self._answers = Answers(around, schedule, self.progress)
        self._trouble = Trouble(
            config, around, self.progress, self.plans, self.restarts, self._storage
        )
        self._poll_seconds = poll_seconds
        self._listener = Listener(around.group, around.clock, config.failures)
        self._launch = history.launches - 1
        self._numbers = 0
        self._stopping = False
        self._stop_by: float | None = None
        self._stop_recorded = False
        self._handover: Handover | None = None
        self._roster = Roster(config.hosts)
        self.state: State = states.Created(since=around.clock())

    @property
    def views(self) -> Sequence[HostView]:
        """The hosts of the newest launch."""
        return self._roster.views

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
        heard = self._listener.hear(self._patience())
        self.state = self.state.postponed(heard.excuse(self._roster, self.state.since))
        for observation in heard.seen:
            if isinstance(observation, StacksSeen):
                self._stacks_came(observation)
            else:
                self._roster.take(observation, heard.now)
        self.state = self._next(self.state, heard.now)
        return self.state

    def _patience(self) -> float:
        """Seconds to wait for news: nothing comes while hosts that are dead are launched anew."""
        if not isinstance(self.state, states.Recovering) or self.state.awaited:
            return self._poll_seconds
        return min(self._poll_seconds, max(0.0, self.state.pause - self._now()))

    def _stacks_came(self, seen: StacksSeen) -> None:
        self._record(events.StacksDumped(seen.rank, self._launch, seen.text))
        if isinstance(self.state, states.Recovering):
            awaited = self.state.awaited - {seen.rank}
            self.state = replace(self.state, awaited=awaited)

    def request_stop(self, within: float | None = None) -> None:
        """Finish the step that runs, save and leave. Safe in a signal handler.

        Args:
            within: Seconds after which to leave in any case; None waits as long as it takes.
        """
        self._stopping = True
        if within is not None:
            self._stop_by = self._now() + within

    def request_resize(self, hosts: int) -> None:
        """Finish the step that runs, save, and go on with so many hosts. Safe on any thread."""
        self.sizing.request(hosts)

    # The way through the states.

    def _next(self, state: State, now: float) -> State:
        views = self._roster.views
        too_late = self._stop_by is not None and now >= self._stop_by
        leaves_well = isinstance(state, states.Training | states.Evaluating | states.Finishing)
        # With raised limits, the hosts hold steps that are not saved yet.
        leaves_well |= isinstance(state, states.Preparing) and state.holding
        if too_late or (self._stopping and not leaves_well):
            return self._end(events.Interrupted, states.Interrupted)
        if isinstance(state, states.Recovering):
            return self._launch_hosts() if state.over(now) else state
        waiting = cast(Waiting, state)
        if self._roster.complete:
            try:
                return self._advance(waiting)
            except EmberayError as error:
                return self._fail(error)
        if isinstance(waiting, states.Launching):
            fewer = self.sizing.smaller(views, now - waiting.since)
            if fewer is not None:
                missing = tuple(view.rank for view in views if view.hello is None)
                self._record(events.Shrunk(fewer, missing))
                return self._launch_hosts(fewer)
        verdict = policies.judge(
            views,
            doing=waiting.doing,
            deadline=waiting.deadline,
            now=now,
            settings=self._settings,
        )
        if verdict is not None:
            return self._mend(verdict, waiting)
        if isinstance(waiting, states.Training):
            return braking.brake(waiting, self._around, views, self._must_leave)
        if isinstance(waiting, states.Evaluating):
            return braking.brake(waiting, self._around, views, self._must_leave_at_once)
        return waiting

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
                hosts = self.sizing.hosts
                checks.check_mesh(replies, hosts, config.devices_per_host)
                devices = hosts * config.devices_per_host
                self._record(events.MeshJoined(self._launch, hosts, devices))
                if (plan := self.plans.for_hosts(hosts)) is not None:
                    return self._prepare(plan)
                return self._command(states.Surveying, protocol.Survey(), settings.survey_timeout)
            case states.Surveying():
                observed = self._answers.surveyed(replies).observed
                return self._prepare(self.plans.first(self.sizing.hosts, observed))
            case states.Preparing(plan=plan):
                checks.check_plan(replies, plan)
                checks.check_data(replies, self._data)
                self._record(events.PlanConfirmed(plan.version, plan.hash))
                if not state.holding:
                    return self._restore()
            case states.Restoring():
                self._answers.restored(state, replies)
            case states.Training():
                self._answers.trained(state, self._launch, replies)
            case states.Evaluating():
                self._answers.evaluated(state, replies)
            case _:
                return self._finished(replies)
        return self._go_on()

    def _go_on(self) -> State:
        """The hosts hold the state of a step and wait: evaluate, train, save or finish."""
        schedule, progress = self.schedule, self.progress
        step = progress.step
        if (too_many := self._trouble.too_many_skipped()) is not None:
            return self._fail(too_many)
        must_leave = self._must_leave()
        leaving = must_leave or progress.done
        if progress.evaluation_missing and not must_leave:
            number = self._next_number()
            return self._command(
                states.Evaluating,
                protocol.Evaluate(_SPLIT, number, self.config.evaluation.row_norms),
                self._settings.evaluate_timeout,
                split=_SPLIT,
                number=number,
            )
        if leaving and (step == 0 or progress.saved == step):
            return self._command(states.Finishing, protocol.Finish(), self._settings.finish_timeout)
        if not leaving:
            raised = self.plans.outgrown(self.sizing.hosts, progress.observed, step=step)
            if raised is not None:
                return self._prepare(raised, holding=True)
        plan_hash = cast(Plan, self.plans.newest).hash
        if leaving and not self._storage.has_room():
            return self._fail(self._storage.refusal(step))
        number = self._next_number()
        if leaving:
            wanted = policies.saving_lease(step, number, plan_hash)
        else:
            wanted = policies.next_lease(schedule, step, number, plan_hash, progress.skipped)
        lease = self._storage.allow(wanted)
        if lease.save != wanted.save:
            self._record(events.CheckpointPostponed(lease.last, self._storage.words()))
        return self._command(
            states.Training, protocol.RunLease(lease), self._settings.lease_timeout, lease=lease
        )

    def _next_number(self) -> int:
        """A number for a lease or an evaluation."""
        self._numbers += 1
        return self._numbers - 1

    def _must_leave(self) -> bool:
        """Whether the hosts are to save and leave, and not merely because the run is done."""
        given = self.sizing.handover(self._roster.views, self._now(), self._handover)
        if given is not None and given is not self._handover:
            self._record(events.HandingOver(given.reason, given.culprits, given.hosts))
        self._handover = given
        return self._stopping or given is not None

    def _must_leave_at_once(self) -> bool:
        """Whether the hosts cannot even finish an evaluation, all of which is lost then."""
        must_leave, handover = self._must_leave(), self._handover
        urgent = self._stopping or handover is None or handover.reason == "preempted"
        return must_leave and urgent

    def _launch_hosts(self, hosts: int | None = None) -> State:
        now, group = self._now(), self._around.group
        group.kill_all()
        self._launch += 1
        self._handover = None
        hosts = self.sizing.launch(now, hosts)
        self._roster = Roster(hosts)
        self._record(events.Launching(self._launch, hosts))
        self._around.ledger.enter(states.Launching.time_kind, now)
        group.launch([protocol.Assignment(rank, hosts, self._launch) for rank in range(hosts)])
        deadline = now + self._settings.launch_timeout
        return states.Launching(since=now, deadline=deadline, launch=self._launch)

    def _prepare(self, plan: Plan, *, holding: bool = False) -> State:
        return self._command(
            states.Preparing,
            protocol.Prepare(plan.to_json()),
            self._settings.prepare_timeout,
            plan=plan,
            holding=holding,
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

    def _finished(self, replies: Sequence[protocol.Finished]) -> State:
        checks.check_committed(self.progress.saved, self._around.committed(), replies)
        if self.progress.complete:
            return self._end(events.Finished, states.Finished)
        if self._handover is not None and not self._stopping:
            return self._launch_hosts(self._handover.hosts)
        return self._end(events.Interrupted, states.Interrupted)

    # What goes wrong, and how it ends.

    def _mend(self, verdict: policies.Verdict, state: Waiting) -> State:
        for event in verdict_events.trouble_events(verdict, self._launch, self._now()):
            self._record(event)
        hosts = self.sizing.hosts
        remedy = self._trouble.remedy(verdict, state, hosts=hosts, last_words=self._last_words)
        match remedy:
            case GiveUp():
                return self._fail(remedy.error)
            case Recover():
                return self._recover(remedy)

    def _recover(self, how: Recover) -> State:
        now, step, group = self._now(), self.progress.step, self._around.group
        self.restarts.total += 1
        self._around.ledger.enter("recovering", now, spent_as="recovering")
        self._record(
            events.Recovering(how.cause, how.culprits, how.reason, step, self.restarts.in_a_row)
        )
        if not how.hanging:
            group.kill_all()
            return states.Recovering(since=now, until=now + how.wait, pause=now + how.wait)
        asked = [h.rank for h in self._roster.views if h.hello is not None and h.died is None]
        for rank in asked:
            group.dump_stacks(rank)
        return states.Recovering(
            since=now,
            until=now + max(how.wait, self._settings.grace),
            pause=now + how.wait,
            awaited=frozenset(asked),
        )

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
