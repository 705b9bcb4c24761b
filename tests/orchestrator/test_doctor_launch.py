"""The doctor beside a launch, and whom nodes connect to; nodes are made up."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from orchestrator.config import RunConfig
from orchestrator.doctor import Answer
from orchestrator.doctor.launch import LaunchCheck
from orchestrator.hosts import node_probes
from orchestrator.hosts.node_probes import RayNode, chosen_peers
from orchestrator.observe.console import describe
from workers.probes import Peer, look


class Answers:
    """Stands in for ``NodeAnswers``: what the nodes answer when they have been asked twice."""

    def __init__(self, nodes, questions, seconds):
        self.nodes, self.questions, self.asked, self.closed = nodes, questions, 0, False
        Answers.last = self

    def collect(self):
        self.asked += 1
        if self.asked < 2:
            return None
        facts = look(self.questions)
        other = replace(facts, versions={**facts.versions, "jax": "0.11"})
        good, bad = (node.name for node in self.nodes)
        return (
            Answer(good, facts, asked=facts.clock, answered=facts.clock),
            Answer(bad, other, asked=facts.clock, answered=facts.clock),
        )

    def close(self):
        self.closed = True


@pytest.fixture
def nodes(monkeypatch):
    nodes = [RayNode("1", "a (1)", "10.0.0.1"), RayNode("2", "b (2)", "10.0.0.2")]
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: True))
    monkeypatch.setattr(node_probes, "alive_nodes", lambda: tuple(nodes))
    monkeypatch.setattr(node_probes, "NodeAnswers", Answers)
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    return nodes


def test_what_is_found_is_told_once_when_all_have_answered(nodes, tmp_path):
    told = []
    check = LaunchCheck(RunConfig(), tmp_path, told.append)
    check.begin()
    (marker,) = tmp_path.iterdir()
    assert Answers.last.questions.marker == marker.name
    check.advance()
    assert told == []
    check.advance()
    (event,) = [one for one in told if one.check == "versions"]
    assert (event.severity, event.nodes) == ("error", ())
    assert "0.11 on b (2)" in event.what
    said = describe(event)
    assert said is not None
    assert said.startswith("warning: versions: jax is ")
    assert Answers.last.closed
    assert not list(tmp_path.iterdir())
    many = len(told)
    check.advance()
    assert len(told) == many


def test_a_run_that_ends_before_the_answers_takes_back_what_it_asked(nodes, tmp_path):
    told = []
    check = LaunchCheck(RunConfig(), tmp_path, told.append)
    check.begin()
    check.close()
    assert told == []
    assert Answers.last.closed
    assert not list(tmp_path.iterdir())


def test_one_node_is_not_asked(nodes, tmp_path):
    del nodes[1]
    told = []
    check = LaunchCheck(RunConfig(), tmp_path, told.append)
    check.begin()
    check.advance()
    assert (told, list(tmp_path.iterdir())) == ([], [])


def test_a_job_with_little_time_to_save_is_told_of_on_one_node_too(nodes, tmp_path, monkeypatch):
    del nodes[1]
    job = '{"metadata": {"job_submission_id": "raysubmit_1"}}'
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", job)
    told = []
    check = LaunchCheck(RunConfig(), tmp_path, told.append)
    check.begin()
    check.advance()
    assert [event.check for event in told] == ["job"]


def test_nodes_connect_to_all_others_of_a_few_and_to_some_of_many():
    few = [Peer(str(n), "", n) for n in range(5)]
    for place in range(5):
        assert {peer.port for peer in chosen_peers(few, place)} == {0, 1, 2, 3, 4} - {place}
    many = [Peer(str(n), "", n) for n in range(1000)]
    reached: dict[int, int] = {}
    for place in range(1000):
        chosen = [peer.port for peer in chosen_peers(many, place)]
        assert len(chosen) == len(set(chosen)) <= 65
        assert place not in chosen
        assert place == 0 or 0 in chosen
        for port in chosen:
            reached[port] = reached.get(port, 0) + 1
    assert min(reached.values()) >= 64
