"""A pipelined loop gives what its documentation says: tables two batches old, nothing else."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import kernels
from kernels import pipelining
from tests.kernels.support import AXIS, Engine, random_ids, several_features

BATCHES = 5


def run(batches, state, tables, lookup, model, update, *, jit=False, **shardings):
    """Outputs of the valid calls, what SC backward returned, final state and tables, programs."""
    empty = jax.tree.map(jnp.zeros_like, batches[0])
    pipeline = pipelining.get_initial_state(batches[0], state, tables, lookup, model, **shardings)
    one = functools.partial(
        pipelining.step, sc_fwd_function=lookup, tc_function=model, sc_bwd_function=update
    )
    if jit:
        one = jax.jit(one, static_argnames="fake_tc_step", donate_argnums=(1, 2, 3))
    outputs, extras = [], []
    for call in range(pipelining.get_pipeline_train_steps(len(batches))):
        batch = batches[call] if call < len(batches) else empty
        valid = pipelining.is_output_valid(call, len(batches))
        output, extra, state, tables, pipeline = one(
            batch, state, tables, pipeline, fake_tc_step=not valid
        )
        extras.append(extra)
        if valid:
            outputs.append(output)
    assert int(pipeline.pipeline_step) == len(batches) + 2
    return outputs, extras, state, tables, one


def test_which_updates_a_batch_sees():
    """Tables that remember: entry b becomes 1 when batch b has been applied."""

    def lookup(numbers, table):
        return table, {"number": numbers}

    def model(seen, dense, state, aux):
        np.testing.assert_array_equal(aux["number"], dense)  # aux travels with its batch
        return dense, (dense, seen, state), state + 1, {"number": dense}

    def update(numbers, gradient, table, aux=None):
        np.testing.assert_array_equal(numbers, gradient)
        np.testing.assert_array_equal(aux["number"], gradient)
        return table.at[numbers].set(1), numbers

    batches = [pipelining.CurrentStepInput(jnp.array([b]), jnp.array([b])) for b in range(1, 7)]
    # Entry 0 belongs to placeholders.
    outputs, extras, state, table, _ = run(
        batches, jnp.array(0), jnp.zeros(7, jnp.int32), *no_trace(lookup, model, update)
    )
    assert [int(b[0]) for b, _, _ in outputs] == [1, 2, 3, 4, 5, 6]
    for batch, seen, steps in outputs:
        number = int(batch[0])
        applied = np.flatnonzero(np.asarray(seen)[1:]) + 1
        assert applied.tolist() == list(range(1, number - 1)), "all but the batch before"
        assert int(steps) == number - 1, "the model's state is never stale"
    assert int(state) == 6
    assert table[1:].tolist() == [1] * 6
    assert [int(extra[0]) for extra in extras] == [0, 0, 1, 2, 3, 4, 5, 6]


def no_trace(*functions):
    """The functions, with their assertions left out while they are traced."""

    def checked(function):
        def call(*arguments):
            try:
                return function(*arguments)
            except jax.errors.TracerArrayConversionError:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(np.testing, "assert_array_equal", lambda *_: None)
                    return function(*arguments)

        return call

    return [checked(function) for function in functions]


@pytest.fixture(scope="module")
def training():
    engine = Engine(several_features(32), 4)
    mesh = engine.mesh
    over = NamedSharding(mesh, PartitionSpec(AXIS))
    lookup = pipelining.get_default_sc_fwd_function(engine.placed, mesh, 1)
    update = pipelining.get_default_sc_bwd_function(engine.placed, mesh, 1)

    def model(activations, labels, weights, aux=None):
        def loss(activations, weights):
            rows = jnp.concatenate([activations[name] for name in sorted(activations)], axis=1)
            return jnp.mean((rows @ weights - labels) ** 2)

        value, (rows, change) = jax.value_and_grad(loss, (0, 1))(activations, weights)
        return rows, value, weights - 0.1 * change, None

    batches = []
    for number in range(BATCHES):
        encoded, _ = engine.encode(random_ids(engine.specs, number % 2))  # ids come again
        labels = np.random.default_rng(number).normal(size=32).astype(np.float32)
        batches.append(
            pipelining.CurrentStepInput(jax.device_put(encoded, over), jax.device_put(labels, over))
        )
    weights = jnp.asarray(np.random.default_rng(9).normal(size=48).astype(np.float32))
    return engine, over, batches, weights, (lookup, model, update)


def by_hand(batches, weights, tables, lookup, model, update, *, stale: int):
    """Plain loop whose lookups miss the last ``stale`` updates."""
    lookup, model, update = jax.jit(lookup), jax.jit(model), jax.jit(update)
    history, losses = [tables], []
    for number, batch in enumerate(batches):
        seen = history[max(number - stale, 0)]
        activations, _ = lookup(batch.sparse_inputs, seen)
        gradients, loss, weights, _ = model(activations, batch.dense_inputs, weights)
        losses.append(float(loss))
        history.append(update(batch.sparse_inputs, gradients, history[-1])[0])
    return losses, weights, history[-1]


def test_a_model_trains_as_with_lookups_one_update_behind(training):
    engine, over, batches, weights, stages = training
    want, want_weights, want_tables = by_hand(batches, weights, engine.tables(), *stages, stale=1)
    fresh, _, _ = by_hand(batches, weights, engine.tables(), *stages, stale=0)
    outputs, _, got_weights, got_tables, one = run(
        batches, jnp.copy(weights), engine.tables(), *stages, jit=True,
        dense_input_sharding=over, sparse_input_sharding=over,
    )  # fmt: skip
    np.testing.assert_allclose([float(loss) for loss in outputs], want, rtol=1e-5)
    np.testing.assert_allclose(got_weights, want_weights, rtol=1e-4, atol=1e-6)
    for name, variables in want_tables.items():
        for mine, other in zip(
            jax.tree.leaves(got_tables[name]), jax.tree.leaves(variables), strict=True
        ):
            np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-6)
    # The staleness is real: fresh lookups give other losses, from the second batch on.
    assert fresh[0] == pytest.approx(want[0])
    assert abs(fresh[2] - want[2]) > 1e-4
    assert one._cache_size() <= 4, "few programs: with and without TC"


def test_filling_the_pipeline_changes_no_row(training):
    engine, _, batches, weights, (lookup, model, update) = training
    tables = engine.tables()
    before = jax.tree.map(np.asarray, tables)
    pipeline = pipelining.get_initial_state(batches[0], weights, tables, lookup, model)

    @functools.partial(jax.jit, static_argnums=4)
    def one(batch, weights, tables, pipeline, fake):
        return pipelining.step(
            batch, weights, tables, pipeline, lookup, model, update, fake_tc_step=fake
        )

    for call in (0, 1):
        _, _, weights, tables, pipeline = one(batches[call], weights, tables, pipeline, call == 0)
        jax.tree.map(np.testing.assert_array_equal, before, tables)
    _, _, weights, tables, pipeline = one(batches[2], weights, tables, pipeline, False)
    assert any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (before, tables)), strict=True))


def test_the_first_state_can_be_had_from_shapes_alone(training):
    _, _, batches, weights, (lookup, model, _) = training
    engine = training[0]
    make = functools.partial(
        pipelining.get_initial_state, sc_fwd_function=lookup, tc_function=model
    )
    shapes = jax.eval_shape(make, batches[0], weights, engine.tables())
    real = make(batches[0], weights, engine.tables())
    assert jax.tree.structure(shapes) == jax.tree.structure(real)
    assert [s.shape for s in jax.tree.leaves(shapes)] == [a.shape for a in jax.tree.leaves(real)]
    assert all(not np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(real))
    buffers = [
        shard.data.unsafe_buffer_pointer()
        for leaf in jax.tree.leaves(real)
        for shard in leaf.addressable_shards
    ]
    assert len(set(buffers)) == len(buffers), "or the state could not be donated"


def test_the_state_lies_where_it_is_told_to(training):
    engine, over, batches, weights, (lookup, model, _) = training
    state = pipelining.get_initial_state(
        batches[0], weights, engine.tables(), lookup, model, over, over
    )
    replicated = NamedSharding(engine.mesh, PartitionSpec())
    shardings = pipelining.get_pipeline_state_sharding(
        pipelining.PipelineState, over, over, replicated, replicated
    )
    assert shardings.last_step_inputs.embedding_activations == over
    moved = jax.device_put(state, shardings)
    for mine in (state, moved):
        for part in (
            mine.last_step_inputs.sparse_inputs,
            mine.last_step_inputs.embedding_activations,
            mine.last_step_inputs.dense_inputs,
            mine.step_before_last_step_inputs,
        ):
            for leaf in jax.tree.leaves(part):
                assert leaf.sharding.is_equivalent_to(over, leaf.ndim)


def test_calls_are_counted():
    assert pipelining.get_pipeline_train_steps(7) == 9
    valid = [pipelining.is_output_valid(call, 7) for call in range(9)]
    assert valid == [False, *[True] * 7, False]


def test_meshes_of_several_axes_need_stages_of_their_own():
    mesh = jax.make_mesh((2, 2), ("a", "b"), devices=jax.devices()[:4])
    for make in (pipelining.get_default_sc_fwd_function, pipelining.get_default_sc_bwd_function):
        with pytest.raises(kernels.SpecError, match="global_mesh must be 1d, got 2"):
            make({}, mesh)


@pytest.mark.parametrize("value", [None, 42, 3.14, "test", (1, 2)])
def test_copies_leave_alone_what_is_no_array(value):
    assert pipelining._safe_copy(value) == value


def test_copies_of_arrays_are_new():
    for array in (jnp.arange(3), np.arange(3)):
        copied = pipelining._safe_copy(array)
        assert isinstance(copied, jax.Array)
        np.testing.assert_array_equal(copied, array)
    shape = jax.ShapeDtypeStruct((8, 16), jnp.float32)
    assert pipelining._safe_copy(shape) is shape
