from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from kernels.optimizers import AdagradOptimizerSpec, RowWiseAdagradOptimizerSpec, SGDOptimizerSpec
from tests.kernels.support import table

ALL = [SGDOptimizerSpec, AdagradOptimizerSpec, RowWiseAdagradOptimizerSpec]


def true_step(spec, gradient, rows, slots, rate):
    """The formulas, row by row and entry by entry, in float64."""
    gradient, rows = gradient.astype(np.float64), rows.astype(np.float64).copy()
    slots = [slot.astype(np.float64).copy() for slot in slots]
    for r in range(rows.shape[0]):
        if isinstance(spec, RowWiseAdagradOptimizerSpec):
            slots[0][r, 0] += sum(g * g for g in gradient[r]) / len(gradient[r])
        for c in range(rows.shape[1]):
            g = gradient[r, c]
            if isinstance(spec, SGDOptimizerSpec):
                rows[r, c] -= rate * g
            elif isinstance(spec, AdagradOptimizerSpec):
                slots[0][r, c] += g * g
                rows[r, c] -= rate * g / np.sqrt(slots[0][r, c])
            else:
                rows[r, c] -= rate * g / (np.sqrt(slots[0][r, 0]) + spec.epsilon)
    return rows, slots


@pytest.mark.parametrize("kind", ALL)
@given(seed=st.integers(0, 2**32 - 1), rate=st.floats(1e-3, 2.0))
@settings(max_examples=15, deadline=None)
def test_update_is_the_formula(kind, seed, rate):
    rng = np.random.default_rng(seed)
    spec = kind(rate)
    gradient = rng.normal(size=(6, 5)).astype(np.float32)
    rows = rng.normal(size=(6, 5)).astype(np.float32)
    widths = spec.slot_variables_widths(5)
    slots = tuple(rng.uniform(0.1, 2, (6, width)).astype(np.float32) for width in widths)
    got, got_slots = spec.update(gradient, rows, slots, spec.get_hyperparameters(), embedding_dim=5)
    want, want_slots = true_step(spec, gradient, rows, slots, rate)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    for mine, theirs in zip(got_slots, want_slots, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5)


@pytest.mark.parametrize("kind", ALL)
def test_slots_say_how_many_and_how_wide(kind):
    spec = kind(0.1)
    assert len(spec.slot_variables_widths(16)) == spec.slot_variables_count()
    assert len(spec.slot_variables_initializers()) == spec.slot_variables_count()
    assert RowWiseAdagradOptimizerSpec().slot_variables_widths(16) == (1,)
    assert AdagradOptimizerSpec().slot_variables_widths(16) == (16,)


def test_zero_gradient_never_divides_by_zero():
    zeros = jnp.zeros((2, 4))
    for spec in (AdagradOptimizerSpec(0.1, 0.0), RowWiseAdagradOptimizerSpec(0.1, 0.0)):
        slots = tuple(jnp.zeros((2, width)) for width in spec.slot_variables_widths(4))
        rows, _ = spec.update(zeros, zeros, slots, spec.get_hyperparameters(), embedding_dim=4)
        assert np.array_equal(rows, zeros)


def test_padding_columns_do_not_count_in_the_mean():
    spec = RowWiseAdagradOptimizerSpec(0.1)
    gradient = jnp.array([[1.0, 2.0, 3.0, 0.0]])
    _, (accumulator,) = spec.update(
        gradient, jnp.zeros((1, 4)), (jnp.zeros((1, 1)),), spec.get_hyperparameters(),
        embedding_dim=3,
    )  # fmt: skip
    assert accumulator[0, 0] == pytest.approx(14 / 3)


def test_equality_and_hash_go_by_kind_and_values():
    assert AdagradOptimizerSpec(0.1) == AdagradOptimizerSpec(0.1)
    assert hash(AdagradOptimizerSpec(0.1)) == hash(AdagradOptimizerSpec(0.1))
    assert AdagradOptimizerSpec(0.1) != AdagradOptimizerSpec(0.2)
    assert AdagradOptimizerSpec(0.1, 0.1) != AdagradOptimizerSpec(0.1, 0.2)
    assert SGDOptimizerSpec(0.1) != AdagradOptimizerSpec(0.1)
    assert SGDOptimizerSpec(0.1) != "sgd"
    schedule = lambda step: 0.1 / (1 + step)  # noqa: E731
    assert SGDOptimizerSpec(schedule) == SGDOptimizerSpec(schedule)
    assert SGDOptimizerSpec(schedule) != SGDOptimizerSpec(lambda step: 0.1)
    assert len({SGDOptimizerSpec(np.float32(0.5)), SGDOptimizerSpec(jnp.array(0.5))}) >= 1


def test_learning_rates_may_be_numbers_functions_and_traced():
    assert SGDOptimizerSpec(0.5).get_learning_rate() == 0.5
    assert SGDOptimizerSpec(lambda: 0.25).get_learning_rate() == 0.25
    assert SGDOptimizerSpec(lambda step: 0.5 / step).get_learning_rate(4) == 0.125
    with pytest.raises(kernels.SpecError, match="needs the step"):
        SGDOptimizerSpec(lambda step: step).get_learning_rate()
    with pytest.raises(kernels.SpecError, match="takes 2 arguments"):
        SGDOptimizerSpec(lambda step, other: step).get_learning_rate(1)

    class Schedule:
        def __call__(self, step):
            return 2.0 * step

    assert SGDOptimizerSpec(Schedule()).get_learning_rate(3) == 6.0

    @jax.jit
    def traced(rate):
        spec = dataclasses.replace(table("t", 4), optimizer=SGDOptimizerSpec(rate)).optimizer
        assert spec.describe()["learning_rate"] == "traced"
        return spec.get_learning_rate() * 2

    assert traced(0.5) == 1.0


def test_descriptions_are_the_same_in_every_process():
    assert AdagradOptimizerSpec(0.1, 0.2).describe() == {
        "name": "adagrad",
        "learning_rate": 0.1,
        "initial_accumulator_value": 0.2,
    }
    described = SGDOptimizerSpec(true_step).describe()
    assert described["learning_rate"] == f"function {__name__}.true_step"
