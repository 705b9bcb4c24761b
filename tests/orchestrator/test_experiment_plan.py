"""Experiments on paper: the file, the settings, the rungs, and what there is room for."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config_loading import make_config
from orchestrator.errors import ConfigError
from orchestrator.experiment.capacity import demand_of, has_room, local_cluster_for
from orchestrator.experiment.rungs import Outcome, due, entrants, ranked, rung_sizes, rung_steps
from orchestrator.experiment.settings import (
    ExperimentSettings,
    HalvingConfig,
    load_experiment,
    make_experiment,
)
from orchestrator.experiment.space import Task, config_of, settings_of

WIDTHS: dict[str, Any] = {"space": {"parameters.embedding_dim": [8, 16]}}


def experiment(**values: Any) -> ExperimentSettings:
    return make_experiment(WIDTHS | values, "here.yaml")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"metrik": "test.auc"}, "unknown key 'metrik' .did you mean 'metric'"),
        ({"halving": {"step": 3}}, "unknown key 'halving.step' .did you mean 'halving.steps'"),
        ({"metric": "test.acu"}, "no metric 'test.acu' .did you mean 'test.auc'"),
        ({"space": {"hosts": 2}}, "space.hosts: give a list of values, or a range .* it is 2"),
        ({"space": {"hosts": []}}, "space.hosts: list should have at least 1 item"),
        ({"space": {}}, "space: .* at least 1 item"),
        ({"space": {"hosts": {"low": 1, "high": 4}}}, "space.hosts is a range.*search: random"),
        ({"space": {"hosts": {"low": 4, "high": 1}}}, "low must be below high"),
        ({"space": {"hosts": {"low": 0, "high": 1, "scale": "log"}}}, "log needs low above 0"),
        ({"space": {"hosts": {"low": 0.5, "high": 1, "whole": True}}}, "whole needs whole bounds"),
        ({"space": {"seed": [1, 2]}}, "seed cannot be in space: list them under seeds"),
        ({"space": {"cluster.address": ["a"]}}, "all trials share one cluster"),
        ({"space": {"parameters": [{}], "parameters.a": [1]}}, "parameters.a, which is a part"),
        ({"search": "random"}, "samples goes with search: random"),
        ({"samples": 3}, "samples goes with search: random"),
        ({"seeds": [1, 1]}, "seeds has one twice"),
        ({"halving": {"steps": 3}, "config": {"max_steps": 3}}, "halving says how many steps"),
        ({"side_by_side": 0}, "side_by_side: .* greater than or equal to 1, but it is 0"),
    ],
)
def test_mistakes_in_the_file_are_named(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=f"here.yaml: .*{said}"):
        experiment(**values)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    file = tmp_path / "e.yaml"
    with pytest.raises(ConfigError, match=r"cannot read the experiment .*No such file"):
        load_experiment(file)
    file.write_text("space: [")
    with pytest.raises(ConfigError, match="is not YAML"):
        load_experiment(file)
    file.write_text("")
    with pytest.raises(ConfigError, match="space among them, but holds nothing"):
        load_experiment(file)


def test_configurations_come_from_base_then_config_then_the_setting(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(
        "batch_size: 64\ncheckpoints: {every: 5, keep: 9}\nhosts: 3"
    )
    (tmp_path / "e.yaml").write_text(
        "base: base.yaml\nconfig: {checkpoints: {every: 7}, parameters: {a: ä}}\n"
        "space: {parameters.rate: [1e-3, 1e-5], hosts: [1, 2]}\nseeds: [4]\n"
    )
    settings = load_experiment(tmp_path / "e.yaml")
    tried = settings_of(settings)
    assert [dict(one.values) for one in tried] == [
        {"parameters.rate": 1e-3, "hosts": 1},
        {"parameters.rate": 1e-3, "hosts": 2},
        {"parameters.rate": 1e-5, "hosts": 1},
        {"parameters.rate": 1e-5, "hosts": 2},
    ]
    config = config_of(settings, tried[3], 4, None)
    assert (config.batch_size, config.hosts, config.seed, config.epochs) == (64, 2, 4, 2)
    assert (config.checkpoints.every, config.checkpoints.keep) == (7, 9)
    assert config.parameters == {"a": "ä", "rate": 1e-5}
    halved = config_of(settings, tried[0], 4, (10, 90))
    assert (halved.max_steps, halved.epochs) == (10, 90)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"space": {"batchsize": [1]}}, "with batchsize=1: unknown key .*mean 'batch_size'"),
        ({"space": {"hosts": [1, 0]}}, "with hosts=0: hosts: .*greater than or equal to 1"),
        ({"space": {"hosts": [object()]}}, "a value cannot be used"),
    ],
)
def test_settings_that_no_run_can_have(values: dict[str, Any], said: str) -> None:
    settings = experiment(**values)
    with pytest.raises(ConfigError, match=said):
        for one in settings_of(settings):
            config_of(settings, one, 0, None)


def test_too_many_settings() -> None:
    values = list(range(40))
    with pytest.raises(ConfigError, match=r"1,600 combinations.*search: random"):
        settings_of(experiment(space={"hosts": values, "batch_size": values}))
    with pytest.raises(ConfigError, match="samples is 1,001"):
        settings_of(experiment(search="random", samples=1001))


@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=4), min_size=1, max_size=3))
def test_a_grid_has_every_combination_once(lists: list[list[int]]) -> None:
    space = {f"parameters.p{place}": values for place, values in enumerate(lists)}
    tried = settings_of(experiment(space=space))
    points = [tuple(one.values.values()) for one in tried]
    assert len(set(points)) == len(points)
    assert set(points) == set(itertools.product(*lists))
    assert [one.number for one in tried] == list(range(len(tried)))


@given(
    st.integers(1, 20),
    st.integers(0, 20),
    st.integers(0, 5),
    st.sampled_from(["linear", "log"]),
    st.booleans(),
    st.tuples(st.integers(1, 50), st.integers(1, 1000)),
)
def test_random_settings_lie_in_their_ranges_and_more_begin_with_the_same(
    samples: int, more: int, seed: int, scale: str, whole: bool, bounds: tuple[int, int]
) -> None:
    low, high = bounds[0], bounds[0] + bounds[1]
    bounded = {"low": low, "high": high, "scale": scale, "whole": whole}
    space = {"parameters.a": bounded, "parameters.b": ["x", "y"]}
    few, many = (
        settings_of(experiment(space=space, search="random", samples=n, sample_seed=seed))
        for n in (samples, samples + more)
    )
    assert many[: len(few)] == few
    found = [tuple(one.values.values()) for one in many]
    assert len(set(found)) == len(found) <= samples + more
    for a, b in found:
        assert low <= a <= high
        assert b in ("x", "y")
        assert isinstance(a, int) == whole
    room = 2 * (bounds[1] + 1) if whole else math.inf
    assert len(few) == samples or room < 4 * samples


@given(st.integers(1, 500), st.integers(2, 5), st.none() | st.integers(1, 6))
def test_rungs_get_smaller_and_longer(settings: int, factor: int, rungs: int | None) -> None:
    halving = HalvingConfig(steps=10, factor=factor, rungs=rungs)
    sizes = rung_sizes(halving, settings)
    assert sizes[0] == settings
    assert all(after == max(1, before // factor) for before, after in itertools.pairwise(sizes))
    assert sizes[-1] == 1 or len(sizes) == rungs
    steps = [rung_steps(halving, settings, rung) for rung in range(len(sizes))]
    assert [rung[0] for rung in steps if rung] == [10 * factor**n for n in range(len(sizes))]
    assert all(rung and rung[1] == 10 * factor ** (len(sizes) - 1) for rung in steps)
    assert rung_steps(None, settings, 0) is None


SCORE = st.none() | st.integers(0, 3).map(float)  # ties are common


@given(st.data())
def test_an_experiment_ends_whatever_its_trials_do_and_in_whatever_order(data: Any) -> None:
    settings, seeds = data.draw(st.integers(1, 12)), list(range(data.draw(st.integers(1, 3))))
    halving = data.draw(st.none() | st.builds(dict, steps=st.just(5), factor=st.integers(2, 4)))
    mode = data.draw(st.sampled_from(["max", "min"]))
    planned = experiment(seeds=seeds, halving=halving, mode=mode)
    sizes = rung_sizes(planned.halving, settings)
    fates: dict[Task, Outcome] = {}

    def run_all(shuffled: bool) -> dict[Task, Outcome]:
        done: dict[Task, Outcome] = {}
        while tasks := due(planned, settings, done):
            assert not set(tasks) & set(done)
            assert len({task.rung for task in tasks}) == 1
            task = data.draw(st.sampled_from(tasks)) if shuffled else tasks[0]
            if task not in fates:
                score = data.draw(SCORE)
                fates[task] = Outcome("finished" if score is not None else "failed", score)
            done[task] = fates[task]
        return done

    done = run_all(shuffled=True)
    assert run_all(shuffled=False) == done
    assert {t for t in done if t.rung == 0} == {
        Task(0, n, seed) for n in range(settings) for seed in seeds
    }
    for rung in range(1, len(sizes)):
        went_on, before = (entrants(planned, settings, r, done) for r in (rung, rung - 1))
        assert went_on is not None
        assert before is not None
        assert set(went_on) <= set(before)
        means = {}
        for n in before:
            scores = [o.score for t, o in done.items() if (t.rung, t.setting) == (rung - 1, n)]
            if len(scores) == len(seeds) and None not in scores:
                means[n] = sum(s for s in scores if s is not None) / len(seeds)
        able = [
            n
            for n in before
            if any(done[t].score is not None for t in done if (t.rung, t.setting) == (rung - 1, n))
        ]
        assert len(went_on) == min(sizes[rung], len(able))
        sign = 1 if mode == "max" else -1
        for left in set(means) - set(went_on):  # whole ones stay behind better whole ones alone
            for gone in went_on:
                assert sign * means[gone] > sign * means[left] or (
                    means[gone] == means[left] and gone < left
                )


def test_ranking() -> None:
    scores = {0: [0.7, 0.7], 1: [0.9, None], 2: [0.8, 0.6], 3: [None, None], 4: [math.nan, 1.0]}
    assert ranked(scores, larger_is_better=True) == [0, 2, 4, 1]
    assert ranked(scores, larger_is_better=False) == [0, 2, 1, 4]


@pytest.mark.parametrize(
    ("metric", "larger"),
    [("test.auc", True), ("test.loss", False), ("seconds", False), ("test.recall@10", True)],
)
def test_what_is_better_follows_from_the_metric(metric: str, larger: bool) -> None:
    assert experiment(metric=metric).larger_is_better is larger
    assert experiment(metric=metric, mode="min").larger_is_better is False


@pytest.mark.parametrize(
    ("values", "taken"),
    [
        ({"hosts": 3, "devices_per_host": 2}, {"CPU": 6}),
        ({"hosts": 3, "cluster": {"num_cpus_per_host": 0.5}}, {"CPU": 1.5}),
        ({"hosts": 2, "elastic": {"sizes": [1, 4]}, "devices_per_host": 1}, {"CPU": 4}),
        ({"hosts": 2, "cluster": {"resources_per_host": {"big": 1.0}}}, {"big": 2, "CPU": 4}),
        (
            {"hosts": 2, "devices_per_host": 8, "cluster": {"accelerator": "gpu"}},
            {"GPU": 16},
        ),
        ({"cluster": {"topology": "v6e-16"}}, {"TPU": 16, "TPU-v6e-16-head": 1}),
        ({"cluster": {"topology": "v6e-16", "slices": 2}}, {"TPU": 32, "TPU-v6e-16-head": 2}),
    ],
)
def test_what_a_trial_takes(values: dict[str, Any], taken: dict[str, float]) -> None:
    assert demand_of(make_config(values)) == taken


def test_a_local_cluster_has_room_for_the_largest_trial() -> None:
    asked = [{"num_cpus_per_host": 3.0}, {"resources_per_host": {"big": 2.0}}]
    configs = [make_config({"hosts": 2, "cluster": cluster}) for cluster in asked]
    cluster = local_cluster_for(configs, cpus=4)
    assert (cluster.num_cpus_per_host, cluster.resources_per_host) == (6, {"big": 4})
    assert local_cluster_for(configs[1:], cpus=4).num_cpus_per_host == 4


@given(
    st.lists(st.dictionaries(st.sampled_from(["CPU", "GPU"]), st.integers(1, 9)), max_size=12),
    st.dictionaries(st.sampled_from(["CPU", "GPU"]), st.integers(1, 12)),
    st.none() | st.integers(1, 4),
)
def test_trials_side_by_side_fit_unless_one_is_alone(
    demands: list[dict[str, float]], capacity: dict[str, float], most: int | None
) -> None:
    running: list[dict[str, float]] = []
    for demand in demands:
        if not has_room(demand, running, capacity, most):
            running = running[1:]
            continue
        running.append(demand)
        assert most is None or len(running) <= most
        if len(running) > 1:
            names = {name for one in running[1:] for name in one}
            newest = running[-1]
            assert all(
                sum(one.get(name, 0) for one in running) <= capacity.get(name, 0)
                for name in names & set(newest)
            )
