from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax_tpu_embedding.sparsecore.lib.nn import custom_optimizer_lowering

import kernels
from kernels.optimizers import AdagradOptimizerSpec, AdagradSlotVariables, CustomOptimizerSpec
from kernels.optimizers.stablehlo import (
    apply_clipping,
    lower_to_stablehlo,
    wrap_stablehlo_with_limits,
)

ZERO = jax.nn.initializers.constant(0.5)


def adagrad(gradient, table, accumulator, rate):
    accumulator = accumulator + gradient * gradient
    return table - rate * gradient / jnp.sqrt(accumulator), accumulator


def normalized(gradient, table, rate):
    """Looks at the whole row: a row must not see its neighbours."""
    return table - rate * gradient / jnp.sqrt(jnp.sum(gradient * gradient))


def rows(seed, count=4):
    return [np.random.default_rng([seed, i]).normal(size=(6, 8)).astype(np.float32)
            for i in range(count)]  # fmt: skip


def run(spec, gradient, table, *slots):
    return spec.update(gradient, table, slots, spec.get_hyperparameters(0), embedding_dim=8)


def test_a_function_is_an_optimizer():
    gradient, table, slot, _ = rows(1)
    slot = np.abs(slot) + 0.1
    spec = CustomOptimizerSpec(
        0.3, adagrad, slot_variable_initializers_tuple=AdagradSlotVariables(ZERO)
    )
    want, (want_slot,) = run(AdagradOptimizerSpec(0.3), gradient, table, slot)
    got, (got_slot,) = run(spec, gradient, table, slot)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    np.testing.assert_array_equal(got_slot, want_slot)
    assert spec.slot_variables_initializers().accumulator is ZERO


def test_each_row_is_by_itself():
    gradient, table, *_ = rows(2)
    got, slots = run(CustomOptimizerSpec(0.3, normalized), gradient, table)
    want = table - 0.3 * gradient / np.linalg.norm(gradient, axis=1, keepdims=True)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    assert slots == ()
    alone, _ = run(CustomOptimizerSpec(0.3, normalized), gradient[2:3], table[2:3])
    np.testing.assert_allclose(alone, want[2:3], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("as_bytes", [False, True])
def test_stablehlo_is_an_optimizer_too(as_bytes):
    gradient, table, slot, _ = rows(3)
    slot = np.abs(slot)
    text = CustomOptimizerSpec.lower_to_stablehlo(adagrad, embedding_dim=8, num_slot_variables=1)
    given = text.encode() if as_bytes else text
    spec = CustomOptimizerSpec(0.3, stablehlo=given, slot_variable_initializers_tuple=(ZERO,))
    plain = CustomOptimizerSpec(0.3, adagrad, slot_variable_initializers_tuple=(ZERO,))
    got, got_slots = jax.jit(lambda *a: run(spec, *a))(gradient, table, slot)
    want, want_slots = run(plain, gradient, table, slot)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got_slots[0], want_slots[0], rtol=1e-5)


def test_lowered_text_is_the_peers():
    for bounds in ((None, None), (-1.0, None), (None, 1.0), (-1.0, 1.0)):
        sizes = {"embedding_dim": 8, "num_slot_variables": 1, "num_hyperparameters": 1}
        arguments = sizes | {"min_value": bounds[0], "max_value": bounds[1]}
        mine = lower_to_stablehlo(adagrad, **arguments)
        theirs = custom_optimizer_lowering.lower_to_stablehlo(adagrad, **arguments)
        assert body(mine) == body(theirs)
        mine = wrap_stablehlo_with_limits(mine, **arguments)
        theirs = custom_optimizer_lowering.wrap_stablehlo_with_limits(theirs, **arguments)
        assert body(mine) == body(theirs).replace("orig_custom_optimizer", "custom_optimizer")


def body(text):
    """The module without its own name, which is that of the function that was traced."""
    return text.partition("\n")[2]


def test_limits_are_kept_by_what_was_wrapped():
    gradient, table, *_ = rows(4)
    text = lower_to_stablehlo(normalized, embedding_dim=8)
    assert wrap_stablehlo_with_limits(text, 8, 0, 1) == text
    assert wrap_stablehlo_with_limits(text.encode(), 8, 0, 1) == text
    within = wrap_stablehlo_with_limits(text, 8, 0, 1, min_value=-0.5, max_value=0.25)
    got, _ = run(CustomOptimizerSpec(0.3, stablehlo=within), gradient, table)
    want, _ = run(CustomOptimizerSpec(0.3, normalized), gradient, table)
    np.testing.assert_allclose(got, np.clip(want, -0.5, 0.25), rtol=1e-5)


def test_clipping_has_one_two_or_no_bounds():
    value = jnp.array([-2.0, 0.0, 2.0])
    assert apply_clipping(value).tolist() == [-2, 0, 2]
    assert apply_clipping(value, -1).tolist() == [-1, 0, 2]
    assert apply_clipping(value, None, 1).tolist() == [-2, 0, 1]
    assert apply_clipping(value, -1, 1).tolist() == [-1, 0, 1]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (CustomOptimizerSpec(0.1), "Either stablehlo or custom_computation_fn must be provided"),
        (CustomOptimizerSpec(0.1, adagrad, short_name_str="mine"), "takes|required|missing"),
        (CustomOptimizerSpec(0.1, lambda g, w, r: (w, w)), "returned 2 arrays; return the row and"),
        (CustomOptimizerSpec(0.1, lambda g, w, r: w.sum()), r"return rows of shape \(1, 8\)"),
        (CustomOptimizerSpec(0.1, stablehlo=3), "must be a string, bytes, or ir.Module"),
        (CustomOptimizerSpec(0.1, stablehlo="not MLIR"), "StableHLO cannot be read"),
    ],
)
def test_what_cannot_work_is_refused(spec, message):
    gradient, table, *_ = rows(5)
    with pytest.raises((kernels.SpecError, TypeError), match=message):
        run(spec, gradient, table)


def test_equality_and_description():
    assert CustomOptimizerSpec(0.1, adagrad) == CustomOptimizerSpec(0.1, adagrad)
    assert CustomOptimizerSpec(0.1, adagrad) != CustomOptimizerSpec(0.1, normalized)
    described = CustomOptimizerSpec(
        0.1, adagrad, b"module {}", (ZERO,), short_name_str="mine"
    ).describe()
    assert json.loads(json.dumps(described)) == described
    assert described["name"] == "custom"
    assert described["short_name_str"] == "mine"
    assert described["custom_computation_fn"].endswith(".adagrad")
    assert len(described["stablehlo"]) == 64
