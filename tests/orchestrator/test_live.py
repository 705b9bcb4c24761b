"""The live view of a terminal: what it shows of a run at a moment."""

import io
from dataclasses import replace

from rich.console import Console as RichConsole
from simulation import simulate

from orchestrator import events, states
from orchestrator.hosts.faults import Fault, ScriptedFaults
from orchestrator.observe import Console
from orchestrator.observe.live import drawn, sparkline
from orchestrator.observe.moment import HostNow, Moment, RunNow
from orchestrator.observe.notes import Notes, Pace

GOODPUT = {"launching": 12.0, "training": 30.0, "saving": 0.2}


def hosts(count, **changes):
    one = HostNow(0, "training", 1.5, 312, 800 * 2**20, 0.4, 0.004)
    return tuple(replace(one, rank=rank, **changes) for rank in range(count))


def text_of(moment, width=150):
    console = RichConsole(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    console.print(drawn(moment))
    return console.file.getvalue()


def test_everything_stands_in_a_few_lines():
    run = RunNow("training", 312, 578, 350, GOODPUT, hosts(2))
    moment = Moment(
        "flights", run, 45.2, 0.4721, (0.6, 0.5, 0.4721),
        (289, "test", {"auc": 0.7658, "loss": 0.4}),
        26_154.4, 24_900.0, 0.004, 58.3, 3.2, 1,
    )  # fmt: skip
    text = text_of(moment)
    for words in (
        "flights training  step 312/578", "45 s, about 59 s left", "loss 0.4721 █▃▁",
        "test AUC 0.7658 at step 289", "examples/s 26,154 (last minute 24,900)",
        "waiting for data 0.4 %", "goodput 71.1 % most else: launching 12 s",
        "next checkpoint step 350 in 4 s", "1 restart", "800.0 MiB",
    ):  # fmt: skip
        assert words in text, words
    assert len(text.splitlines()) <= 9
    for width in (80, 100):
        narrow = text_of(moment, width=width)
        assert all(len(line) <= width for line in narrow.splitlines())
        assert "…" not in narrow, "something was cut off"
        assert "waiting for data 0.4 %" in narrow


def test_before_the_first_step_nothing_is_made_up():
    run = RunNow("starting", 0, 578, 100, {"launching": 0.0}, hosts(2, step=None, waited=None))
    text = text_of(Moment("flights", run, 0.5))
    for words in ("loss –", "AUC not evaluated yet", "examples/s –", "goodput –"):
        assert words in text, words
    assert "left" not in text


def test_of_many_hosts_those_stand_out_that_do_something_else():
    many = list(hosts(1000))
    many[7] = replace(many[7], phase="waiting_for_data", phase_seconds=9.0)
    many[8] = replace(many[8], silent=12.0)
    many[9] = replace(many[9], phase="dead")
    run = RunNow("training", 312, 578, None, GOODPUT, many)
    text = text_of(Moment("flights", run, 45.0))
    assert "1,000 hosts: 998 training, 1 waiting for data, 1 dead" in text
    shown = [line.split()[0] for line in text.splitlines() if line[:1].isdigit()]
    assert shown[1:] == ["7", "8", "9"]
    assert "training, silent for 12 s" in text
    assert "next checkpoint none" in text


def test_the_controller_says_what_is_shown():
    run = simulate(ScriptedFaults([Fault("die", 2, step=45)]), checkpoints={"every": 30})
    notes, seen = Notes(0.0), []
    told = 0
    while not isinstance(run.step(), states.Ended):
        for time, event in run.log[told:]:
            notes.take(event, time)
        told = len(run.log)
        now = run.clock.now
        seen.append(notes.moment(RunNow.of(run.controller, run.ledger.seconds(now), now), now))
    steps = [moment.run.step for moment in seen]
    assert max(steps) == 100
    training = [moment for moment in seen if moment.run.doing == "training"]
    for moment in training:
        assert moment.run.next_save is None or moment.run.next_save > moment.run.step
        assert moment.run.next_save in (30, 60, 90, 100, None)
        assert len(moment.run.hosts) == 4
    assert any(moment.left is not None and moment.minute for moment in training)
    assert any("training" in {host.phase for host in moment.run.hosts} for moment in training)
    assert any("dead" in {host.phase for host in moment.run.hosts} for moment in seen)
    assert (seen[0].restarts, seen[-1].restarts) == (0, 1)
    assert seen[-1].evaluated is not None


def test_pace_is_of_the_last_minutes_and_begins_anew_after_a_restore():
    pace = Pace()
    assert pace.steps_per_second(0.0) is None
    for second in range(0, 1200, 10):
        pace.note(float(second), second + max(0, second - 600), 64 * second)
    assert len(pace.marks) <= 61
    assert 1.9 < (pace.steps_per_second(1190.0) or 0) <= 2.0
    assert 60 < (pace.examples_per_second(1190.0) or 0) <= 64
    pace.note(1200.0, 100, 64 * 1200)
    assert pace.steps_per_second(1201.0) is None


def test_the_view_is_drawn_and_goes_away():
    out = io.StringIO()
    console = Console(RichConsole(file=out, width=140, force_terminal=True, color_system=None))
    run = simulate()
    console(0.0, events.RunStarted("runs/a", "flights", 4, 4, 50, 100))
    run.to_end()
    console.look(run.controller, run.ledger)
    text = out.getvalue()
    assert "step 100/100" in text
    drawings = text.count("next checkpoint")
    console.look(run.controller, run.ledger)  # too soon
    assert out.getvalue().count("next checkpoint") == drawings
    console(1.0, events.Finished(100))
    drawings = out.getvalue().count("next checkpoint")
    console.look(run.controller, run.ledger)
    assert out.getvalue().count("next checkpoint") == drawings
    console.close()


def test_sparklines():
    assert sparkline([1.0]) == ""
    assert sparkline([1.0, 1.0]) == "▁▁"
    assert sparkline([8.0, float("nan"), 1.0]) == "█▁"
