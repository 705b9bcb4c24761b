"""Figures for Prometheus, what they add up to, and the dashboard that shows them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from simulation import simulate

from orchestrator import events
from orchestrator.hosts.faults import Fault, ScriptedFaults
from orchestrator.observe.prometheus import METRICS, Prometheus

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "cluster_configs" / "grafana" / "emberay.json"


class Record:
    """Takes values as Ray would; refuses names and tags that are not declared."""

    def __init__(self):
        self.values = {}

    def __call__(self, name, value, tags):
        assert set(tags) == {"run", *METRICS[name].tags}
        key = name, *(tags[tag] for tag in METRICS[name].tags)
        counts = METRICS[name].kind == "counter"
        self.values[key] = value + (self.values.get(key, 0.0) if counts else 0.0)


def told(run, after=0):
    """What a sink has told of a run, that found Ray after so many events."""
    record, seen = Record(), []

    def connect(name):
        assert name == "first"
        seen.append(name)
        return record if len(seen) > after else None

    sink = Prometheus("first", connect)
    sink(0.0, events.RunStarted("runs/first", "p", 4, 4, 50, 100, elapsed=2.0))
    for time, event in run.log:
        sink(time, event)
    return record.values


@pytest.mark.parametrize("after", [0, 3])
def test_a_run_is_told_as_the_driver_counts_it(after):
    run = simulate(ScriptedFaults([Fault("die", 2, step=45)]))
    run.to_end()
    values = told(run, after)
    counted = run.ledger.seconds(run.clock.now)
    counted["planning"] += 2.0
    seconds = {key[1]: value for key, value in values.items() if key[0] == "emberay_seconds"}
    assert seconds == pytest.approx({k: s for k, s in counted.items() if s}, abs=0.3)
    assert values["emberay_step",] == 100
    assert values["emberay_total_steps",] == 100
    assert values["emberay_hosts",] == 4
    assert values["emberay_restarts",] == 1
    leases = run.of(events.LeaseDone)
    assert values["emberay_examples",] == sum(lease.examples for lease in leases)
    assert values["emberay_evaluation", "test", "auc"] == 1.0
    assert {key[1] for key in values if key[0] == "emberay_host_waiting"} == {"0", "1", "2", "3"}


def test_ray_is_left_to_the_session_to_import():
    """Its settings, such as the one for ``uv run``, are read when it is imported."""
    code = (
        "import sys; from orchestrator import events; from orchestrator.observe import Prometheus; "
        "Prometheus('run')(0.0, events.Finished(steps=1)); assert 'ray' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120)


def test_without_ray_nothing_is_told():
    run = simulate()
    run.to_end()
    assert told(run, after=10_000) == {}


def test_the_dashboard_shows_every_figure_and_no_other():
    board = json.loads(DASHBOARD.read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    queries += [one["definition"] for one in board["templating"]["list"] if "definition" in one]
    exported = {
        f"ray_{name}_total" if measure.kind == "counter" else f"ray_{name}"
        for name, measure in METRICS.items()
    }
    shown = {name for query in queries for name in re.findall(r"ray_emberay_\w+", query)}
    assert shown == exported
    for query in queries:
        for name, selected, _ in re.findall(r"ray_(\w+?)(?:_total)?\{([^}]*)\}(.?)", query):
            tags = set(re.findall(r"(\w+)=", selected))
            assert tags <= {"run", *METRICS[name].tags}, query
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    places = [panel["gridPos"] for panel in board["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
