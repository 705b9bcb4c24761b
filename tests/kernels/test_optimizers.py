from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from kernels.callable_placeholder import CallablePlaceholder
from kernels.optimizers import (
    AdagradMomentumOptimizerSpec,
    AdagradOptimizerSpec,
    AdamOptimizerSpec,
    F2AOptimizerSpec,
    FTRLOptimizerSpec,
    LaPropOptimizerSpec,
    RowWiseAdagradOptimizerSpec,
    SGDOptimizerSpec,
    optimizer_from_description,
)
from tests.kernels.optimizer_formulas import KINDS, VARIANTS, true_step
from tests.kernels.support import table


def first_slots(spec, rows, columns):
    key = jax.random.key(0)
    return tuple(
        np.asarray(make(key, (rows, width)))
        for make, width in zip(
            spec.slot_variables_initializers(), spec.slot_variables_widths(columns), strict=True
        )
    )


@pytest.mark.parametrize("name", VARIANTS)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.sampled_from([(1, 1), (5, 9)]),
    magnitude=st.integers(-12, 8),
    zeros=st.floats(0, 1),
    steps=st.integers(1, 4),
)
@settings(max_examples=12, deadline=None)
def test_update_is_the_formula(name, seed, shape, magnitude, zeros, steps):
    """In float64, where rounding hides nothing: also over several steps and extreme gradients."""
    rng, spec, (rows, columns) = np.random.default_rng(seed), VARIANTS[name], shape
    with jax.enable_x64(True):
        here = rng.normal(size=(rows, columns))
        slots = tuple(slot.astype(np.float64) for slot in first_slots(spec, rows, columns))
        there, their_slots = here, slots
        for step in range(steps):
            gradient = rng.normal(size=(rows, columns)) * 10.0**magnitude
            gradient[rng.random(gradient.shape) < zeros] = 0
            numbers = tuple(
                np.asarray(value, value.dtype if value.dtype == bool else np.float64)
                for value in exact_hyperparameters(spec, step)
            )
            here, slots = spec.update(gradient, here, slots, numbers, embedding_dim=columns)
            there, their_slots = true_step(spec, gradient, there, their_slots, step)
        scale = max(1.0, np.abs(there).max())
        np.testing.assert_allclose(here, there, rtol=1e-9, atol=1e-9 * scale)
        for mine, theirs in zip(slots, their_slots, strict=True):
            np.testing.assert_allclose(
                mine, theirs, rtol=1e-9, atol=1e-9 * max(1.0, np.abs(theirs).max())
            )


def exact_hyperparameters(spec, step):
    """`get_hyperparameters`, but in float64: checked against the real ones."""
    given = spec.get_hyperparameters(step)
    match spec:
        case AdamOptimizerSpec():
            t = step + 1
            correction = np.sqrt(1 - spec.beta_2**t)
            rate = spec.learning_rate * correction / (1 - spec.beta_1**t)
            exact = (rate, spec.beta_1, spec.beta_2, spec.epsilon * correction)
        case LaPropOptimizerSpec():
            decay = spec.b2 * (1 - spec.b2**step) / (1 - spec.b2 ** (step + 1))
            exact = (spec.learning_rate, spec.b1, decay, spec.eps)
        case _:
            exact = tuple(value.item() for value in given)
            named = [value for value in spec.parameters().values() if isinstance(value, float)]
            exact = tuple(next((n for n in named if np.float32(n) == e), e) for e in exact)
    np.testing.assert_allclose([float(e) for e in exact], [float(g) for g in given], rtol=1e-4)
    return tuple(np.asarray(value) for value in exact)


@pytest.mark.parametrize("name", VARIANTS)
def test_slots_say_how_many_and_how_wide(name):
    spec = VARIANTS[name]
    makers, widths = spec.slot_variables_initializers(), spec.slot_variables_widths(16)
    assert len(makers) == len(widths) == spec.slot_variables_count()
    assert widths == (
        (1,) if isinstance(spec, RowWiseAdagradOptimizerSpec) else (16,) * len(widths)
    )
    new = spec.update(
        jnp.ones((2, 16)), jnp.ones((2, 16)), first_slots(spec, 2, 16),
        spec.get_hyperparameters(0), embedding_dim=16,
    )  # fmt: skip
    assert [slot.shape for slot in new[1]] == [(2, width) for width in widths]


@pytest.mark.parametrize("kind", KINDS)
def test_zero_gradients_and_slots_put_no_nan_anywhere(kind):
    """Padding columns have gradient 0; slots may have been told to start at 0."""
    spec, zeros = kind(0.1), jnp.zeros((2, 4))
    slots = tuple(jnp.zeros((2, width)) for width in spec.slot_variables_widths(4))
    rows, slots = spec.update(zeros, zeros, slots, spec.get_hyperparameters(0), embedding_dim=4)
    assert np.array_equal(rows, zeros)
    assert all(np.isfinite(slot).all() for slot in slots)


@pytest.mark.parametrize("spec", [AdamOptimizerSpec(epsilon=0.0), LaPropOptimizerSpec(eps=0.0),
                                  AdagradMomentumOptimizerSpec(epsilon=0.0)])  # fmt: skip
def test_even_without_an_epsilon(spec):
    zeros = jnp.zeros((2, 4))
    slots = (zeros, zeros)
    rows, _ = spec.update(zeros, zeros, slots, spec.get_hyperparameters(0), embedding_dim=4)
    assert np.array_equal(rows, zeros)


def test_padding_columns_do_not_count_in_the_mean():
    spec = RowWiseAdagradOptimizerSpec(0.1)
    gradient = jnp.array([[1.0, 2.0, 3.0, 0.0]])
    _, (accumulator,) = spec.update(
        gradient, jnp.zeros((1, 4)), (jnp.zeros((1, 1)),), spec.get_hyperparameters(),
        embedding_dim=3,
    )  # fmt: skip
    assert accumulator[0, 0] == pytest.approx(14 / 3)


def test_ftrl_weights_are_exactly_zero_below_the_l1_threshold():
    spec = FTRLOptimizerSpec(0.1, l1_regularization_strength=1.0)
    gradient = jnp.array([[0.5, 1.0, 1.5, -0.5, -1.5]])
    slots = (jnp.full((1, 5), 0.1), jnp.zeros((1, 5)))
    rows, _ = spec.update(
        gradient, jnp.zeros((1, 5)), slots, spec.get_hyperparameters(), embedding_dim=5
    )
    assert (rows[0] == 0).tolist() == [True, True, False, True, False]


def test_f2a_takes_longer_steps_for_rows_seen_rarely():
    spec, gradient = F2AOptimizerSpec(0.1), jnp.ones((2, 1))
    slots = (jnp.full((2, 1), 0.1), jnp.array([[99.0], [0.0]]))
    rows, _ = spec.update(
        gradient, jnp.zeros((2, 1)), slots, spec.get_hyperparameters(100), embedding_dim=1
    )
    assert rows[1, 0] / rows[0, 0] == pytest.approx(10.0)


@pytest.mark.parametrize("kind", KINDS)
def test_equality_and_hash_go_by_kind_and_values(kind):
    assert kind(0.1) == kind(0.1)
    assert hash(kind(0.1)) == hash(kind(0.1))
    assert kind(0.1) != kind(0.2)
    for name, value in kind(0.1).parameters().items():
        other = (not value) if isinstance(value, bool) else value + 0.25
        assert kind(**{name: other}) != kind(), name
    others = [other(0.1) for other in KINDS if other is not kind]
    assert kind(0.1) not in others
    assert kind(0.1) != kind.__name__


def test_functions_are_compared_by_identity():
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


def test_other_hyperparameters_may_be_functions_and_traced_too():
    spec = AdagradMomentumOptimizerSpec(0.1, momentum=lambda step: 0.5 * step, epsilon=lambda: 0.25)
    numbers = spec.get_hyperparameters(1)
    assert (float(numbers[1]), float(numbers[3])) == (0.5, 0.25)
    with pytest.raises(kernels.SpecError, match="given as momentum needs the step"):
        spec.get_hyperparameters()
    traced = jax.jit(lambda l2: FTRLOptimizerSpec(0.1, l2_regularization_strength=l2)
                     .get_hyperparameters()[3] * 2)  # fmt: skip
    assert traced(0.25) == 0.5


@pytest.mark.parametrize("name", VARIANTS)
def test_updates_follow_a_step_that_is_traced(name):
    spec = VARIANTS[name]
    slots = first_slots(spec, 2, 3)
    run = lambda step: spec.update(  # noqa: E731
        jnp.ones((2, 3)), jnp.ones((2, 3)), slots, spec.get_hyperparameters(step), embedding_dim=3
    )[0]
    np.testing.assert_allclose(jax.jit(run)(7), run(7), rtol=1e-6)


def test_laprop_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="rms_clip_threshold is not yet supported"):
        LaPropOptimizerSpec(rms_clip_threshold=1.0)


def test_descriptions_are_the_same_in_every_process():
    assert AdagradOptimizerSpec(0.1, 0.2).describe() == {
        "name": "adagrad",
        "learning_rate": 0.1,
        "initial_accumulator_value": 0.2,
    }
    described = SGDOptimizerSpec(true_step).describe()
    assert described["learning_rate"] == f"function {true_step.__module__}.true_step"


@pytest.mark.parametrize("name", VARIANTS)
def test_a_description_gives_the_spec_back_through_json(name):
    spec = VARIANTS[name]
    assert optimizer_from_description(json.loads(json.dumps(spec.describe()))) == spec


def test_a_described_function_has_a_placeholder():
    spec = AdamOptimizerSpec(true_step)
    again = optimizer_from_description(spec.describe())
    assert isinstance(again.learning_rate, CallablePlaceholder)
    assert again.describe() == spec.describe()
    with pytest.raises(RuntimeError, match="cannot be evaluated"):
        again.get_learning_rate(1)


def test_descriptions_of_nothing_known_are_refused():
    with pytest.raises(kernels.SpecError, match="'lion' cannot be made"):
        optimizer_from_description({"name": "lion", "learning_rate": 0.1})
    with pytest.raises(kernels.SpecError, match="is not one of optimizer 'sgd'"):
        optimizer_from_description({"name": "sgd", "speed": 0.1})
