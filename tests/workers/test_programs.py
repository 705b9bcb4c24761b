"""The ready programs learn what they are for, on small synthetic data whose truth is known."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from workers import protocol
from workers.host import Host
from workers.planning import check_inputs, make_plan, resolve_data
from workers.program import BinaryCrossEntropy, load_program
from workers.programs.dlrm import RankingModel
from workers.programs.sequence import SequenceModel
from workers.programs.two_tower import ClickedRows, TwoTowers
from workers.protocol import Assignment, Lease, RunSpec

SMALL = {"rows": 40_000, "test_rows": 8_000, "users": 200, "items": 60, "history": 4}


def trained(
    name: str, folder, epochs: int, batch_size: int, **parameters: Any
) -> protocol.Evaluated:
    """Train in this process, on all its devices."""
    reference = f"workers.programs.{name}:program"
    program = load_program(reference, parameters)
    run = RunSpec(
        program=reference,
        parameters=parameters,
        data=resolve_data(program, None),
        run_folder=str(folder),
        batch_size=batch_size,
        epochs=epochs,
        seed=0,
        devices_per_host=jax.device_count(),
    )
    steps = epochs * check_inputs(program, run, 1).steps_per_epoch
    run = dataclasses.replace(run, total_steps=steps)
    host = Host(run, Assignment(rank=0, hosts=1, launch=0))
    try:
        host.execute(protocol.Join(host.hello().address))
        surveyed = host.execute(protocol.Survey())
        assert isinstance(surveyed, protocol.Surveyed)
        plan = make_plan(program, run, 1, surveyed.observed, None, 0)
        host.execute(protocol.Prepare(plan.to_json()))
        host.execute(protocol.Restore(None))
        host.execute(protocol.RunLease(Lease(0, plan.hash, 0, steps)))
        evaluated = host.execute(protocol.Evaluate("test"))
    finally:
        host.close()
    assert isinstance(evaluated, protocol.Evaluated)
    return evaluated


def test_two_towers_know_users_apart(tmp_path):
    """Better than any order of the items that is the same for all users."""
    evaluated = trained("two_tower", tmp_path, 2, 512, cutoffs=(10,), **SMALL)
    assert evaluated.ranking is not None
    recall = evaluated.ranking.result()["recall@10"]
    assert recall > alike_for_all() + 0.02


def alike_for_all() -> float:
    """Recall@10 of items by the true number of their clicks."""
    from workers.data.synthetic import ClickLog

    log = ClickLog(
        *(SMALL[name] for name in ("rows", "test_rows", "users", "items", "history")), 0.3
    )
    items = log.table("truth", 0, 60_000)["item"].to_numpy()
    clicks = np.bincount(items, log.probabilities("truth", 0, 60_000), minlength=SMALL["items"])
    table = log.table("test", 0, SMALL["test_rows"])
    found, ranks = table["item"].to_numpy(), np.argsort(np.argsort(-clicks))
    # Nearly all 60 items are in every batch.
    return float(np.mean(ranks[found[table["label"].to_numpy() == 1]] < 10))


def test_the_sequence_program_comes_close_to_the_best_auc(tmp_path):
    from workers.data.sources import best_of

    evaluated = trained("sequence", tmp_path, 2, 256, **SMALL)
    program = load_program("workers.programs.sequence:program", SMALL)
    best = best_of(resolve_data(program, None))
    assert best is not None
    assert -0.01 < best.auc - evaluated.metrics.result()["auc"] < 0.025


def test_softmax_logits_give_its_cross_entropy():
    r = np.random.default_rng(0)
    model = TwoTowers(width=4, hidden=8)
    activations = {
        name: jnp.asarray(r.normal(size=(6, 5)), jnp.float32)
        for name in ("user", "history", "item")
    }
    keys = jnp.array([1.0, 2, 3, 2, 5, 0])  # the last one fills up the batch
    dense = jnp.stack([keys, jnp.log(jnp.array([0.1, 0.2, 0.3, 0.2, 0.1, 1.0]))], axis=1)
    parameters = model.init(jax.random.key(0), activations, dense)
    logits = model.apply(parameters, activations, dense)
    queries = model.apply(parameters, activations, method="queries")
    candidates = model.apply(parameters, activations, method="candidates")
    scores = np.asarray(queries @ candidates.T - dense[:, 1])[:5, :5]
    want = np.asarray(optax.softmax_cross_entropy(jnp.asarray(scores), jnp.eye(5)))
    labels = jnp.array([1.0, 1, 0, 1, 1, 0])
    losses = ClickedRows()(logits, labels, activations)
    np.testing.assert_allclose(losses[:5], want * labels[:5], rtol=1e-5)
    assert losses[5] == 0 and np.isfinite(logits).all()


def test_attention_looks_at_held_positions_only():
    r = np.random.default_rng(0)
    model = SequenceModel(positions=3)
    past = r.normal(size=(2, 3, 4)).astype(np.float32)
    past[0, 1:] = 0  # one item
    past[1] = 0  # none
    item = jnp.asarray(r.normal(size=(2, 4)), jnp.float32)
    dense = jnp.zeros((2, 1))
    activations = {"history": jnp.asarray(past.reshape(6, 4)), "item": item}
    parameters = model.init(jax.random.key(0), activations, dense)
    whole = model.apply(parameters, activations, dense)
    assert np.isfinite(whole).all()
    shorter = SequenceModel(positions=1)
    cut = jax.tree.map(lambda x: x, parameters)
    cut["params"]["place"] = parameters["params"]["place"][:1]
    alone = shorter.apply(cut, {**activations, "history": jnp.asarray(past[:, 0])}, dense)
    np.testing.assert_allclose(alone, whole, rtol=1e-5)


def test_products_are_those_of_all_pairs():
    r = np.random.default_rng(0)
    rows = {name: jnp.asarray(r.normal(size=(4, 3)), jnp.float32) for name in "abc"}
    dense = jnp.zeros((4, 0))
    plain, paired = RankingModel(), RankingModel(products=True)
    parameters = plain.init(jax.random.key(0), rows, dense)
    a, b, c = rows.values()
    added = paired.apply(parameters, rows, dense) - plain.apply(parameters, rows, dense)
    np.testing.assert_allclose(added, jnp.sum(a * b + a * c + b * c, axis=1), rtol=1e-4, atol=1e-5)


def test_a_linear_column_stands_by_itself():
    r = np.random.default_rng(0)
    rows = {name: jnp.asarray(r.normal(size=(4, 3)), jnp.float32) for name in "ab"}
    dense = jnp.zeros((4, 0))
    linear = RankingModel(products=True, linear=(("a", 2.0), ("b", 0.5)))
    plain = RankingModel(products=True)
    rest = {name: row[:, 1:] for name, row in rows.items()}
    parameters = plain.init(jax.random.key(0), rest, dense)
    added = linear.apply(parameters, rows, dense) - plain.apply(parameters, rest, dense)
    want = 2 * rows["a"][:, 0] + rows["b"][:, 0] / 2
    np.testing.assert_allclose(added, want, rtol=1e-4, atol=1e-5)


def test_the_penalty_counts_every_position():
    rows = {"one": jnp.ones((2, 3)), "history": jnp.ones((4, 3))}
    zeros = jnp.zeros(2)
    loss = BinaryCrossEntropy(0.5)(zeros, zeros, rows) - BinaryCrossEntropy()(zeros, zeros, rows)
    assert loss.tolist() == pytest.approx([0.5 * 9] * 2)
