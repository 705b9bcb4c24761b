"""The report: what it counts, what it shows, and that it is one whole page."""

import json
import random
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from driving import fit, simulation
from simulation import simulate

import kernels
from orchestrator import events, report_command
from orchestrator.cli import main
from orchestrator.errors import RunFailed
from orchestrator.events import as_record
from orchestrator.hosts.faults import Fault, RandomFaults, ScriptedFaults
from orchestrator.observe import HostsFile
from orchestrator.report import RunRecord, comparison_page, read_run, report_page
from orchestrator.report.charts import ticks, time_ticks
from orchestrator.report.curves import MOST_POINTS, loss_curve, memory_curves, thinned
from orchestrator.report.host_section import host_shares
from orchestrator.report.table_section import needed
from orchestrator.report.timeline import buckets, timeline_of
from tests.kernels.support import several_features
from workers.memory import MemoryUse
from workers.metrics import BinaryMetrics
from workers.protocol import LeaseDone, Observed

__all__ = ["simulation"]

_ALONE = {"meta", "br"}


class Page(HTMLParser):
    """Reads a page, and fails where an element is not closed, or names something outside it."""

    def __init__(self, text):
        super().__init__()
        self.open, self.words, self.tags = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            assert name not in ("src", "srcset"), (tag, value)
            assert name != "href" or value.startswith("#"), value
            assert "url(" not in (value or "")
        if tag not in _ALONE:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "style":
            assert "@import" not in data and "url(" not in data
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def records(run):
    return [as_record(time, event) for time, event in run.log]


@pytest.mark.parametrize("seed", range(8))
def test_the_timeline_counts_as_the_driver_does(seed):
    faults = RandomFaults(seed, chance=0.15, most=4) if seed else None
    run = simulate(faults, failures={"max_restarts": 40})
    run.to_end()
    found = timeline_of(records(run))
    counted = run.ledger.seconds(run.clock.now)
    assert found.seconds == pytest.approx(counted, abs=0.3)
    assert found.end == pytest.approx(run.clock.now, abs=0.01)
    for before, after in zip(found.spans, found.spans[1:], strict=False):
        assert before.end == after.start
    parts = buckets(found, 30)
    assert all(sum(part.values()) == pytest.approx(1.0) for part in parts)
    for kind, seconds in found.seconds.items():
        share = sum(part.get(kind, 0.0) for part in parts) / 30
        assert share * found.end == pytest.approx(seconds, abs=1e-6)


def test_a_run_that_is_resumed_has_no_gap(simulation, tmp_path):
    path = tmp_path / "run"
    fit(path, max_steps=50)
    first = timeline_of(read_run(path).events)
    lines = (path / "events.jsonl").read_text().splitlines()
    later = [json.loads(line) for line in lines]
    shifted = [json.dumps(line | {"time": line["time"] + 86_400}) for line in later]
    (path / "events.jsonl").write_text("\n".join([*lines, *shifted]) + "\n")
    run = read_run(path)
    both = timeline_of(run.events)
    assert both.drivers == 2
    assert both.end == pytest.approx(2 * first.end, abs=0.01)
    assert "another driver goes on with the run" in Page(report_page(run)).text


def test_a_run_leaves_its_report(simulation, tmp_path):
    simulation.faults = ScriptedFaults([Fault("die", 1, step=45)])
    fit(tmp_path / "run", batch_size=64)
    text = (tmp_path / "run" / "report.html").read_text()
    page = Page(text)
    for words in (
        "simulated finished", "100 of 100 steps done", "1 restarts", "2 × 1 hosts × devices",
        "test AUC", "examples per second", "died while training", "started anew",
        "repeated work", "batch_size", "jaxlib",
    ):  # fmt: skip
        assert words in page.text, words
    assert page.tags.count("svg") >= 5
    assert len(text) < 400_000


def test_the_report_of_a_run_that_failed_says_why(simulation, tmp_path):
    simulation.faults = ScriptedFaults([Fault("die", 1, step=45, times=99)])
    with pytest.raises(RunFailed):
        fit(tmp_path / "run", failures={"max_restarts": 0})
    text = Page((tmp_path / "run" / "report.html").read_text()).text
    assert "failed" in text
    assert "RunFailed after 40 steps: gave up at step 40" in text


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.9])
def test_a_run_that_was_killed_has_a_report_too(simulation, tmp_path, share):
    path = tmp_path / "run"
    fit(path)
    for name in ("events.jsonl", "metrics.jsonl", "hosts.jsonl"):
        content = (path / name).read_bytes()
        least = content.index(b"\n") + 1 if name == "events.jsonl" else 0
        (path / name).write_bytes(content[: max(least, int(share * len(content)))])
    (path / "summary.json").unlink()
    (path / "config.yaml").unlink()
    assert main(["report", str(path)]) == 0
    assert "running, or killed" in Page((path / "report.html").read_text()).text


def test_what_runs_say_is_no_markup(simulation, tmp_path):
    fit(tmp_path / "run")
    run = read_run(tmp_path / "run")
    evil = "<script>alert('x')</script>"
    said = events.Recovering("died", [0], evil, 10, 1)
    lines = [
        *({**line, "program": evil} if line["kind"] == "run_started" else line
          for line in run.events),
        as_record(run.events[-1]["time"], said),
    ]  # fmt: skip
    evil_run = replace(run, events=lines, config={"parameters": {evil: evil}}, name=evil)
    for page in (report_page(evil_run), comparison_page([run, evil_run])):
        assert evil not in page
        assert evil in Page(page).text


def test_secrets_stay_out(simulation, tmp_path, monkeypatch):
    secret = "hunter2-hunter2"
    command = ["python", "-m", "orchestrator", "train", f"parameters.api_key={secret}"]
    monkeypatch.setattr("sys.orig_argv", command)
    fit(tmp_path / "run", parameters={"api_key": secret, "width": 7})
    run = read_run(tmp_path / "run")
    for page in (report_page(run), comparison_page([run, replace(run, config={"hosts": 3})])):
        assert secret not in page
        assert "parameters.api_key" in page
    assert "orchestrator train" in report_page(run)


def test_no_report_is_no_failure(simulation, tmp_path, monkeypatch, capsys):
    def full(folder):
        raise OSError("no space left on device")

    monkeypatch.setattr("orchestrator.driver.write_report", full)
    assert fit(tmp_path / "run").status == "finished"


def test_the_command_names_what_it_wrote(simulation, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    fit(tmp_path / "a")
    fit(tmp_path / "b", seed=7, lease_steps=5)
    (tmp_path / "a" / "report.html").unlink()
    assert main(["report", "a"]) == 0
    assert (tmp_path / "a" / "report.html").is_file()
    assert main(["report", "a", "b"]) == 0
    assert main(["report", "a", "--output", "there.html"]) == 0
    assert capsys.readouterr().out.split() == ["a/report.html", "comparison.html", "there.html"]
    text = Page((tmp_path / "comparison.html").read_text()).text
    for words in ("2 runs compared", "seed 0 7", "lease_steps 10 5", "examples/s", "launching"):
        assert words in text, words
    assert "batch_size" not in text
    assert main(["report", "a", "nowhere"]) == 2
    assert "'nowhere' is no run's folder" in capsys.readouterr().err
    assert main(["report", "a", "--output", "no/such/folder.html"]) == 2
    assert "--output" in capsys.readouterr().err


def test_a_comparison_says_which_is_better(simulation, tmp_path):
    fit(tmp_path / "run")
    run = read_run(tmp_path / "run")
    worse = [
        line | {"metrics": line["metrics"] | {"auc": 0.5, "loss": 0.1}} if "split" in line else line
        for line in run.metrics
    ]
    page = comparison_page([run, replace(run, metrics=worse, name="other")])
    assert '<small class="worse">-0.5000</small>' in page
    assert page.count('class="better"') == 1  # the loss
    same = Page(comparison_page([run, replace(run, folder="/else/run")])).text
    assert "Settings and versions are the same." in same


def host_reply(rank, first, last, *, waited, memory, ids):
    return LeaseDone(
        rank, 0, first, last, (0.5,) * (last - first), 64, BinaryMetrics.empty(),
        {"users": Observed(ids, ids // 2, 4 * ids)},
        {"training": 2.0, "waiting_for_data": waited}, {"read": waited, "encode": 0.5},
        memory=MemoryUse(memory, 10),
    )  # fmt: skip


def lease(first, last, hosts=2, launch=0):
    replies = [
        host_reply(rank, first, last, waited=0.25 * rank, memory=100 + first + rank, ids=8 + rank)
        for rank in range(hosts)
    ]
    return events.LeaseDone(
        launch, 0, first, last, 0.5, 64, 2.5, {"training": 2.0}, {}, (0.5,) * (last - first), 50,
        replies,
    )  # fmt: skip


def test_hosts_are_added_up_into_few_lines(tmp_path):
    sink = HostsFile(tmp_path / "hosts.jsonl")
    for number in range(8):
        sink(2.5 * (number + 1), lease(10 * number, 10 * number + 10))
    sink(21.0, events.Recovering("died", [1], "host 1 died", 80, 1))
    sink(30.0, lease(80, 90, launch=1))
    sink(31.0, events.Finished(90))
    sink.close()
    lines = [json.loads(line) for line in (tmp_path / "hosts.jsonl").read_text().splitlines()]
    assert [(line["launch"], line["first"], line["last"]) for line in lines] == [
        (0, 0, 40), (0, 40, 80), (1, 80, 90),
    ]  # fmt: skip
    assert lines[0]["seconds"] == {"training": [8.0, 8.0], "waiting_for_data": [0.0, 1.0]}
    assert lines[0]["memory"] == [130, 131]
    assert lines[0]["observed"] == {"users": [9, 4, 36]}
    run = RunRecord("r", "r", [], [], lines, {})
    assert [(share.rank, share.steps, share.stages["read"]) for share in host_shares(run)] == [
        (0, 10, 0.0), (1, 10, 0.25),
    ]  # fmt: skip
    assert [curve.name for curve in memory_curves(lines, "memory")] == ["host 0", "host 1"]
    assert needed(run) == {"users": (9, 4, 36)}


def test_many_hosts_are_shown_by_their_extremes(simulation, tmp_path):
    fit(tmp_path / "run")
    sink = HostsFile(tmp_path / "many.jsonl")
    sink(2.5, lease(0, 10, hosts=300))
    sink(3.0, events.Finished(10))
    sink.close()
    line = json.loads((tmp_path / "many.jsonl").read_text())
    run = replace(read_run(tmp_path / "run"), hosts=[line])
    text = Page(report_page(run)).text
    assert "the 16 busiest of 300 hosts. The pipeline of host 299 was busy longest" in text
    assert "median host" in text


def test_tables_are_shown_with_limits_and_skew(simulation, tmp_path):
    fit(tmp_path / "run")
    plan = kernels.build_plan(several_features(32), kernels.Topology(1, 2, 2), batch_size=32)
    stack = plan.stacks[0]
    seen = [stack.limits.max_ids_per_partition, 4, 16]
    line = {
        "launch": 0, "first": 0, "last": 1, "seconds": {}, "stages": {}, "memory": [1],
        "device_memory": [0], "observed": {stack.name: seen},
    }  # fmt: skip
    page = report_page(replace(read_run(tmp_path / "run"), plans=[plan], hosts=[line]))
    text = Page(page).text
    assert f"{seen[0]:,} of {seen[0]:,}" in text
    skew = seen[0] * plan.topology.sparsecores * 2 / 16
    assert f"{skew:.2f}" in text
    assert 'class="tight"' in page
    for table in plan.tables:
        assert table.name in text
    assert plan.hash[:12] in text


def test_long_curves_are_thinned_to_means_and_their_spread():
    values = [(step + 1, random.Random(step).random()) for step in range(10_007)]
    values[5] = (6, None)
    values[6] = (7, float("nan"))
    curve = thinned("loss", values)
    assert len(curve.points) <= MOST_POINTS
    steps = [x for x, _ in curve.points]
    assert steps == sorted(steps)
    assert all(low <= y <= high for (_, y), (_, low, high) in zip(
        curve.points, curve.spread, strict=True))  # fmt: skip
    short = thinned("loss", [(1, 0.5), (2, 0.25)])
    assert (list(short.points), short.spread, short.last) == ([(1, 0.5), (2, 0.25)], (), 0.25)
    empty = loss_curve(RunRecord("r", "r", [], [], [], {}))
    assert empty.last is None


def test_ticks_are_round():
    assert ticks(0.4412, 0.5589, 4) == [0.45, 0.5, 0.55]
    assert ticks(5.0, 5.0) == [5.0]
    assert time_ticks(95.0)[:3] == [0, 10, 20]
    assert time_ticks(7200.0) == [900 * number for number in range(9)]
    assert time_ticks(30 * 86_400.0)[1] % 86_400 == 0


def test_the_report_is_written_whole_or_not_at_all(simulation, tmp_path, monkeypatch):
    fit(tmp_path / "run")
    before = (tmp_path / "run" / "report.html").read_text()

    def broken(folder):
        raise ValueError("broken")

    monkeypatch.setattr(report_command, "_page", broken)
    with pytest.raises(ValueError, match="broken"):
        report_command.write_report(tmp_path / "run")
    assert (tmp_path / "run" / "report.html").read_text() == before
