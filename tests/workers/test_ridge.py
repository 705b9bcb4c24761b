"""A ridge as such; what it does in a step is in test_training."""

from __future__ import annotations

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
import pytest

from kernels import (
    AdagradOptimizerSpec,
    AdamOptimizerSpec,
    EmbeddingVariables,
    SGDOptimizerSpec,
    Topology,
    apply_plan,
    build_plan,
)
from tests.workers.small_program import program
from workers import ridge
from workers.errors import ProgramError
from workers.ridge import Ridge


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"strength": -1.0}, "strength is -1.0"),
        ({"strength": float("nan")}, "strength is nan"),
        ({"strength": 1.0, "first": -0.1}, "first is -0.1"),
        ({"strength": 1.0, "every": 0}, "every is 0"),
        ({"strength": 1.0, "every": 2.5}, "every is 2.5"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(given, said):
    with pytest.raises(ProgramError, match=said):
        Ridge(**given)


def test_tables_with_other_optimizers_are_refused():
    made = program()
    adam = dataclasses.replace(made.tables[0], optimizer=AdamOptimizerSpec())
    with pytest.raises(ProgramError, match="table 'item' has the optimizer adam"):
        dataclasses.replace(made, tables=(adam, made.tables[1]), ridge=Ridge(0.1))


def test_it_is_part_of_what_is_trained_but_how_often_is_not():
    made = program()
    drawn = dataclasses.replace(made, ridge=Ridge(0.1))
    assert drawn.fingerprint() != made.fingerprint()
    often = dataclasses.replace(made, ridge=Ridge(0.1, every=1))
    assert often.fingerprint() == drawn.fingerprint()


def test_under_gradient_descent_all_entries_have_one_rate():
    made = program()
    optimizer = SGDOptimizerSpec(learning_rate=lambda step: 0.5 / (step + 1))
    made = dataclasses.replace(
        made, tables=tuple(dataclasses.replace(t, optimizer=optimizer) for t in made.tables)
    )
    specs = made.feature_specs(8)
    plan = build_plan(specs, Topology(1, 1, 1), batch_size=8)
    specs = apply_plan(plan, specs)
    ridge = Ridge(0.2, every=5)
    tables = {
        stack.name: EmbeddingVariables(jnp.ones((stack.vocab_size, stack.width)), ())
        for stack in plan.stacks
    }
    for step, want in ((3, 1.0), (4, 1 / (1 + 5 * 0.2 * 0.5 / 5)), (5, 1.0)):
        for variables in ridge.drawn(tables, specs, jnp.int32(step), "cpu").values():
            np.testing.assert_allclose(variables.table, want, rtol=1e-6)


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_an_accumulator_of_zero_leaves_its_entry_alone(rate):
    specs = program(learning_rate=rate).feature_specs(8)
    plan = build_plan(specs, Topology(1, 1, 1), batch_size=8)
    specs = apply_plan(plan, specs)
    for stack in plan.stacks:
        shape = stack.vocab_size, stack.width
        squares = jnp.zeros(shape).at[0].set(4.0)
        tables = {stack.name: EmbeddingVariables(jnp.ones(shape), (squares,))}
        drawn = Ridge(0.2, every=1).drawn(tables, specs, jnp.int32(0), "cpu")
        found = np.asarray(drawn[stack.name].table)
        np.testing.assert_allclose(found[0], 1 / (1 + 0.2 * rate / 2), rtol=1e-6)
        assert np.all(found[1:] == 1)


@pytest.mark.parametrize("optimizer", [SGDOptimizerSpec(0.5), AdagradOptimizerSpec(0.5)])
@pytest.mark.parametrize(("rows", "block"), [(8, 1 << 19), (40, 64), (41, 64), (24, 100)])
def test_in_blocks_it_is_the_same(optimizer, rows, block):
    r = np.random.default_rng(rows)
    table, squares = (jnp.asarray(r.uniform(0.1, 1, (rows, 8)), jnp.float32) for _ in range(2))
    entries = functools.partial(Ridge(0.2, 0.7, 3)._entries, optimizer, jnp.int32(2))
    whole = ridge._over_all(entries, table, squares)
    np.testing.assert_allclose(ridge._over_blocks(entries, table, squares, block), whole, rtol=1e-6)
    by_hand = np.where(np.arange(8) == 0, 0.7, 0.2) * 3 * 0.5
    adagrad = isinstance(optimizer, AdagradOptimizerSpec)
    want = table / (1 + by_hand / (np.sqrt(squares) if adagrad else 1))
    np.testing.assert_allclose(whole, want, rtol=1e-6)
