"""What the hosts saw, put together, makes one plan that holds all of it."""

from __future__ import annotations

import itertools

import jax

import kernels
from tests.kernels.support import Engine, random_ids, several_features
from workers.batches import observe
from workers.protocol import merge_observed

HOSTS, PER_DEVICE = 4, 2


def test_statistics_of_all_hosts_make_the_next_version_of_the_plan():
    engine = Engine(several_features(64), HOSTS, PER_DEVICE)
    ids = random_ids(engine.specs, 3)
    shares = [
        {name: value.reshape(HOSTS, -1, value.shape[1])[host] for name, value in ids.items()}
        for host in range(HOSTS)
    ]

    def encode(host: int, specs, **options):
        return kernels.preprocess_sparse_dense_matmul_input(
            shares[host], None, specs, 1, HOSTS, num_sc_per_device=PER_DEVICE, **options
        )

    seen = [observe(encode(host, engine.placed)[1], engine.plan) for host in range(HOSTS)]
    assert len({repr(one) for one in seen}) > 1  # the hosts did see different things
    whole = observe(engine.encode(ids)[1], engine.plan)
    small = engine.plan.with_limits(dict.fromkeys(engine.plan.limits, kernels.Limits(8, 8, 16)))
    plans = set()
    for order in itertools.permutations(seen):
        merged = merge_observed(*order)
        assert merged == whole
        plans.add(small.with_raised_limits(merged))
    (plan,) = plans
    assert plan.version == small.version + 1

    # Every host makes its specs from the plan it was sent, and its share fits.
    sent = kernels.EmbeddingPlan.from_json(plan.to_json())
    placed = kernels.apply_plan(sent, engine.specs)
    shapes = set()
    for host in range(HOSTS):
        batch, statistics = encode(host, placed)
        assert not any(statistics.id_drop_counters.values())
        shapes.add(str(jax.tree.map(lambda array: array.shape, batch)))
    assert len(shapes) == 1
