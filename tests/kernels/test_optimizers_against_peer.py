"""Our updates against what jax-tpu-embedding lowers for the SparseCore, run here on the CPU.

Its primitives build the update of a row as a StableHLO function, which the custom call names. That
function is cut out of the lowered program and called as it is.
"""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.optimizers.stablehlo import call_stablehlo
from tests.kernels.optimizer_formulas import VARIANTS
from tests.kernels.peer import embedding_spec, optimizer_like

COLUMNS = 64
PEER = {name: spec for name, spec in VARIANTS.items() if name != "row_wise_adagrad"}


def peer_update(spec, bounds=(None, None)):
    """The peer's update of rows ``[1, COLUMNS]``: every argument of that shape."""
    theirs = optimizer_like(spec)
    numbers = theirs.get_hyperparameters(1)
    options = {}
    if isinstance(theirs, embedding_spec.FTRLOptimizerSpec):
        options["multiply_linear_by_learning_rate"] = theirs.multiply_linear_by_learning_rate
    if bounds != (None, None):
        options["min_value"], options["max_value"] = bounds

    def run(*arguments):
        return theirs.get_optimizer_primitive().bind(
            *arguments,
            max_ids_per_partition=8,
            max_unique_ids_per_partition=8,
            computation_name="of_a_row",
            sharding_strategy=1,
            **options,
        )

    ids, gains = jax.ShapeDtypeStruct((8,), np.int32), jax.ShapeDtypeStruct((8,), np.float32)
    table = jax.ShapeDtypeStruct((16, COLUMNS), np.float32)
    tables = [table] * (1 + theirs.slot_variables_count())
    count = jax.ShapeDtypeStruct((), np.int32)
    traced = jax.jit(run).trace(ids, ids, ids, gains, count, *tables, table, *numbers)
    text = traced.lower(lowering_platforms=("tpu",)).as_text()
    found = re.search(r"func\.func private @of_a_row.*?\n  }", text, re.DOTALL)
    assert found, text
    # A program's main function returns values, not one tuple of them.
    function = re.sub(r"-> tuple<(.*?)> {", r"-> (\1) {", found[0])
    function = re.sub(r"return %\d+ : tuple<(.*?)>\n", r"return RESULTS : \1\n", function)
    made = re.search(r" *%\d+ = stablehlo\.tuple (.*?) : .*\n", function)
    assert made, function
    function = function.replace(made[0], "").replace("RESULTS", made[1])
    module = f"module {{\n{function.replace('private @of_a_row', 'public @main')}\n}}"
    return jax.jit(
        lambda *rows: call_stablehlo(module, rows, results=1 + theirs.slot_variables_count())
    )


@pytest.fixture(scope="module")
def peer_updates():
    return {name: peer_update(spec) for name, spec in PEER.items()}


@pytest.mark.parametrize("name", PEER)
@given(seed=st.integers(0, 2**32 - 1), magnitude=st.integers(-8, 6), step=st.integers(0, 1000))
@settings(max_examples=8, deadline=None)
def test_updates_equal_the_peers(peer_updates, name, seed, magnitude, step):
    rng, spec = np.random.default_rng(seed), VARIANTS[name]
    rows = lambda: rng.normal(size=(1, COLUMNS)).astype(np.float32)  # noqa: E731
    gradient, table = rows() * np.float32(10.0**magnitude), rows()
    gradient[0, ::7] = 0
    slots = tuple(np.abs(rows()) + np.float32(0.1) for _ in range(spec.slot_variables_count()))
    theirs = optimizer_like(spec).get_hyperparameters(step)
    ours = spec.get_hyperparameters(step)
    assert [value.dtype for value in ours] == [value.dtype for value in theirs]
    np.testing.assert_array_equal(np.array(ours, np.float32), np.array(theirs, np.float32))

    wide = [np.broadcast_to(value, (1, COLUMNS)) for value in theirs]
    want = peer_updates[name](gradient, table, *slots, *wide)
    got, got_slots = jax.jit(
        lambda *rows: spec.update(rows[0], rows[1], rows[2:], ours, embedding_dim=COLUMNS)
    )(gradient, table, *slots)
    # XLA may fuse a multiplication and an addition in one program and not in the other. In FTRL
    # the difference of two roots, nearly equal for small gradients, enlarges that.
    loose = 2e-4 if name.startswith("ftrl") else 2e-6
    scale = max(1.0, np.abs(want[0]).max())
    np.testing.assert_allclose(got, want[0], rtol=loose, atol=loose * scale)
    for mine, other in zip(got_slots, want[1:], strict=True):
        np.testing.assert_allclose(
            mine, other, rtol=loose, atol=loose * max(1.0, np.abs(other).max())
        )


def test_a_difference_would_be_seen(peer_updates):
    """The comparison can fail: another Nesterov flag is another result."""
    ones = np.ones((1, COLUMNS), np.float32)
    numbers = [np.broadcast_to(v, ones.shape)
               for v in VARIANTS["adagrad_momentum"].get_hyperparameters()]  # fmt: skip
    plain = peer_updates["adagrad_momentum"](ones, ones, ones, ones, *numbers)
    numbers[-1] = ~numbers[-1]
    assert not np.allclose(plain[0], peer_updates["adagrad_momentum"](
        ones, ones, ones, ones, *numbers)[0])  # fmt: skip


@pytest.mark.parametrize("name", PEER)
def test_slot_variables_have_the_peers_names_and_first_values(name):
    ours, theirs = VARIANTS[name], optimizer_like(VARIANTS[name])
    mine, other = ours.slot_variables_initializers(), theirs.slot_variables_initializers()
    assert type(mine).__name__ == type(other).__name__
    assert mine._fields == other._fields
    assert ours.short_name() == theirs.short_name()
    key = jax.random.key(0)
    for make, theirs_make in zip(mine, other, strict=True):
        np.testing.assert_array_equal(make(key, (2, 3)), theirs_make(key, (2, 3)))
    assert ours.get_float_params() == theirs.get_float_params()
    assert ours.get_bool_params() == theirs.get_bool_params()
    again = type(ours).from_float_and_bool_params(
        theirs.get_float_params() | {"unknown": 1.0}, theirs.get_bool_params(), ours.learning_rate
    )
    assert again == ours


def test_without_a_step_hyperparameters_are_the_peers():
    for spec in PEER.values():
        mine, other = spec.get_hyperparameters(), optimizer_like(spec).get_hyperparameters()
        np.testing.assert_array_equal(np.array(mine, np.float32), np.array(other, np.float32))
    laprop = VARIANTS["laprop"]
    assert laprop.get_decay_rate() == jnp.float32(laprop.b2)
    assert laprop.get_decay_rate(3) == optimizer_like(laprop).get_decay_rate(3)
