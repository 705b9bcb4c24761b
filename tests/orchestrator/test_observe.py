import io
import json

from rich.console import Console as RichConsole

from orchestrator import events
from orchestrator.json_lines import read_lines
from orchestrator.observe import (
    Console,
    EventFile,
    MetricsFile,
    PlanFiles,
    StackFiles,
    TensorBoard,
    summary_table,
)
from orchestrator.observe.console import describe
from orchestrator.summary import Summary


def lease(first, last, loss=0.5):
    return events.LeaseDone(
        launch=0, lease=0, first=first, last=last, loss=loss, examples=(last - first) * 4,
        elapsed=2.0, seconds={"compiling": 1.0}, stages={}, losses=[loss] * (last - first),
        steps_per_epoch=5,
    )  # fmt: skip


def evaluated(step, auc=0.75):
    metrics = {"auc": auc, "normalised_entropy": 0.9, "loss": 0.4}
    return events.Evaluated(step, step // 5, "test", metrics, 1.0)


def test_metrics_hold_each_step_once_after_a_restore(tmp_path):
    path = tmp_path / "metrics.jsonl"
    sink = MetricsFile(path)
    for event in (
        events.Restored(0), lease(0, 5), evaluated(5), lease(5, 8), events.Restored(5),
        lease(5, 10), evaluated(10),
    ):  # fmt: skip
        sink(1.0, event)
    sink.close()
    records = list(read_lines(path))
    assert [r["step"] for r in records if "split" not in r] == list(range(10))
    assert [r["epoch"] for r in records if "split" not in r] == [0] * 5 + [1] * 5
    assert [(r["step"], r["epoch"], r["metrics"]["auc"]) for r in records if "split" in r] == [
        (5, 1, 0.75), (10, 2, 0.75),
    ]  # fmt: skip

    again = MetricsFile(path)
    again(1.0, events.Restored(4))
    again.close()
    assert [r["step"] for r in read_lines(path)] == [0, 1, 2, 3]


def test_events_are_written_at_once_with_time_and_kind(tmp_path):
    sink = EventFile(tmp_path / "events.jsonl")
    sink(12.3456, events.HostDied(1, 4711, 0, "killed by signal 9"))
    sink(13.0, lease(0, 3))
    sink(14.0, events.PlanMade(2, "abc", "auto", '{"large": "plan"}'))
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    sink.close()
    assert lines[0] == {
        "time": 12.346, "kind": "host_died", "rank": 1, "pid": 4711, "launch": 0,
        "reason": "killed by signal 9",
    }  # fmt: skip
    assert lines[1]["kind"] == "lease_done"
    assert "losses" not in lines[1]
    assert lines[2] == {
        "time": 14.0, "kind": "plan_made", "version": 2, "hash": "abc", "limits": "auto",
    }  # fmt: skip


def test_plans_and_stacks_get_files_of_their_own(tmp_path):
    PlanFiles(tmp_path)(1.0, events.PlanMade(3, "abc", "auto", '{"a": 1}'))
    StackFiles(tmp_path)(1.0, events.StacksDumped(2, 1, "Thread 1"))
    assert json.loads((tmp_path / "plan-3.json").read_text()) == {"a": 1}
    assert (tmp_path / "stacks" / "launch-1-host-2.txt").read_text() == "Thread 1"


def test_tensorboard_files_hold_the_scalars(tmp_path):
    sink = TensorBoard(tmp_path)
    for event in (events.Restored(0), lease(0, 2), evaluated(2), lease(2, 3, float("nan"))):
        sink(1.0, event)
    sink.close()
    sink.close()
    content = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert content.count(b"train/loss") == 2
    assert b"test/auc" in content
    assert b"test/normalised_entropy" in content


def test_what_two_launches_wrote_within_a_second_is_all_there(tmp_path, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1e9)
    sink = TensorBoard(tmp_path)
    for event in (events.Restored(0), lease(0, 2), events.Restored(2), evaluated(2)):
        sink(1.0, event)
    sink.close()
    first, second = (file.read_bytes() for file in sorted(tmp_path.iterdir()))
    assert b"train/loss" in first
    assert b"test/auc" in second


def run_console(console):
    console(0.0, events.RunStarted("runs/a", "flights", 2, 4, 100, 200))
    console(1.0, events.Launching(0, 2))
    console(2.0, events.Restored(0))
    for index in range(20):
        console(3.0 + index, lease(10 * index, 10 * index + 10))
    console(30.0, evaluated(200))
    console(31.0, events.Recovering("died", [1], "host 1 (pid 7) died [here]", 200, 1))
    console(32.0, events.Finished(200))


def test_without_a_terminal_there_is_a_line_every_few_seconds():
    out = io.StringIO()
    run_console(Console(RichConsole(file=out, width=200), line_seconds=5.0))
    lines = out.getvalue().splitlines()
    steps = [line for line in lines if line.startswith("step ") and "examples/s" in line]
    assert [line.split()[1] for line in steps] == [
        "10/200", "60/200", "110/200", "160/200", "200/200",
    ]  # fmt: skip
    assert "loss 0.5000  40 examples/s  2 hosts" in steps[0]
    assert any("flights: 200 steps, 100 an epoch, on 2 hosts with 4 devices" in li for li in lines)
    assert "step 200: test auc 0.7500, normalised entropy 0.9000, loss 0.4000" in lines
    assert any("host 1 (pid 7) died [here]; starting anew" in line for line in lines)
    assert "initialised tables and model" in lines


def test_the_table_at_the_end_tells_quality_speed_and_place():
    summary = Summary(
        status="finished", run_folder="runs/[a]", program="flights", steps=200, epochs=2,
        examples=800, examples_per_second=1234.5, seconds=10.0,
        goodput={"training": 7.5, "launching": 2.5, "saving": 0.0},
        metrics={"test": {"auc": 0.71, "normalised_entropy": 0.88, "loss": None}, "train": {}},
        restarts=3, hosts=2, devices=4,
    )  # fmt: skip
    out = io.StringIO()
    RichConsole(file=out, width=100).print(summary_table(summary))
    text = out.getvalue()
    for part in ("0.7100", "0.8800", "1,234", "75.0% of 10.0 s", "training 7.5, launching 2.5",
                 "runs/[a]", "2 × 2", "flights: finished"):  # fmt: skip
        assert part in text, part
    assert "saving" not in text


def test_the_table_names_the_slowest_stage_and_the_best_possible_auc():
    summary = Summary(
        status="finished", run_folder="runs/a", program="clicks", steps=200, epochs=2,
        examples=800, examples_per_second=1234.5, seconds=10.0,
        goodput={"training": 7.5, "waiting_for_data": 1.25},
        metrics={
            "test": {"auc": 0.81}, "train": {},
            "best_possible": {"auc": 0.8298, "auc_error": 0.0007, "loss": 0.46},
        },
        restarts=0, hosts=2, devices=4,
        stages={"read": 0.5, "encode": 3.25, "put": 0.0}, slowest_stage="encode",
    )  # fmt: skip
    out = io.StringIO()
    RichConsole(file=out, width=120).print(summary_table(summary))
    text = out.getvalue()
    for part in ("best possible AUC", "0.8298 ± 0.0007", "data, slowest stage",
                 "encode; training waited 1.2 s (busy: encode 3.2, read 0.5)"):  # fmt: skip
        assert part in text, part


def test_what_a_run_lost_is_told_loudly():
    skipped = describe(events.CheckpointSkipped(90, "array.json is cut off"))
    assert skipped == (
        "warning: the checkpoint of step 90 is skipped and set aside: array.json is cut off"
    )
    lost = describe(events.StepsUnrecorded(75, 100))
    assert lost is not None
    assert lost.startswith("warning: the losses of the steps 75 to 99 were never recorded")
