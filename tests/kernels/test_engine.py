"""Lookup and update held to plain numpy: every backend, kind of mesh, combiner and type.

The quick tests have two optimizers, the one marked ``system`` has all of them.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

import kernels
from kernels.backends import select_backend
from tests.kernels.minibatching import in_minibatches
from tests.kernels.optimizer_formulas import VARIANTS, true_step
from tests.kernels.support import (
    AXIS,
    Engine,
    fast_jit,
    feature,
    several_features,
    table,
    true_gradients,
    true_lookup,
)

SAMPLES = 16
STEP = 3
COMBINERS = kernels.specs.COMBINERS
PLATFORMS = {"xla": "gpu", select_backend("cpu").name: "cpu"}
"""Backends by name, and a platform that chooses each; all of them run on CPUs."""
MESHES = [(1, 4, 3), (4, 1, 0)]
"""Devices, SparseCores of each, minibatches."""
ALL_MESHES = [(1, 1, 0), (1, 4, 2), (2, 1, 0), (2, 2, 4), (4, 1, 2), (4, 2, 0)]
HALF = ("day", "sgd", "adam_other", "ftrl_scaled", "row_wise_adagrad")
"""Stacks kept in bfloat16."""


def few_specs(combiner):
    """Two stacks: Adagrad of several tables, and row-wise Adagrad of one, in bfloat16."""
    specs = several_features(SAMPLES, optimizer=VARIANTS["adagrad"], combiner=combiner)
    optimizer = VARIANTS["row_wise_adagrad"]
    alone = table("row_wise_adagrad", 90, 3, optimizer=optimizer, combiner=combiner)
    return specs | {"alone": feature("alone", alone, SAMPLES, 3)}


def all_specs(combiner):
    """A table for every optimizer, each a stack of its own."""
    specs = {}
    for number, (name, optimizer) in enumerate(VARIANTS.items()):
        vocabulary, columns = (7, 50, 131)[number % 3], (3, 8)[number % 2]
        mine = table(name, vocabulary, columns, optimizer=optimizer, combiner=combiner)
        specs[name] = feature(name, mine, SAMPLES, (1, 3, 5)[number % 3])
    return specs


@functools.cache
def engine_of(make_specs, devices, per_device, combiner):
    return Engine(make_specs(combiner), devices, per_device, stack=make_specs is few_specs)


@functools.cache
def machine(make_specs, devices, per_device, minibatches, platform):
    """The compiled step: activations, updated variables, gradients of the tables.

    The combiner is in the gains that preprocessing writes: one program serves all.
    """
    engine = engine_of(make_specs, devices, per_device, "sum")
    options = {
        "num_sc_per_device": per_device,
        "enable_minibatching": bool(minibatches),
        "platform": platform,
        "global_device_count": devices,
    }

    def step(batch, tables, gradients):
        activations = kernels.tpu_sparse_dense_matmul(batch, tables, engine.placed, **options)
        given = (gradients, batch, tables, engine.placed)
        updated = kernels.tpu_sparse_dense_matmul_grad(*given, step=STEP, **options)
        summed = kernels.tpu_sparse_dense_matmul_grad(*given, return_gradients=True, **options)
        return activations, updated, summed

    spec = PartitionSpec(AXIS)
    return fast_jit(
        jax.shard_map(step, mesh=engine.mesh, in_specs=spec, out_specs=spec, check_vma=False)
    )


class Case:
    """Random tables, ids, gains and gradients: the same ones on every mesh."""

    def __init__(self, make_specs, seed, combiner="sum", empty=0.2, hot=0.3):
        rng = np.random.default_rng(seed)
        self.specs = make_specs(combiner)
        self.logical, self.ids, self.gains, self.gradients = {}, {}, {}, {}
        for name, spec in kernels.get_table_specs(
            engine_of(make_specs, 1, 1, combiner).placed
        ).items():
            shape = (spec.vocabulary_size, spec.embedding_dim)
            widths = spec.optimizer.slot_variables_widths(shape[1])
            slots = [rng.uniform(0.1, 2, (shape[0], w)).astype(np.float32) for w in widths]
            self.logical[name] = kernels.EmbeddingVariables(
                rng.normal(size=shape).astype(jnp.bfloat16 if name in HALF else np.float32),
                tuple(slots),
            )
        for name, spec in self.specs.items():
            shape, vocabulary = spec.input_shape, spec.table_spec.vocabulary_size
            ids = rng.integers(0, vocabulary, shape)
            ids = np.where(rng.random(shape) < hot, vocabulary - 1, ids)
            self.ids[name] = np.where(rng.random(shape) < empty, -1, ids).astype(np.int32)
            self.gains[name] = rng.uniform(0.2, 2, shape).astype(np.float32)
            self.gradients[name] = rng.normal(size=spec.output_shape).astype(np.float32)

    def run(self, make_specs, mesh, platform, combiner="sum"):
        """Activations, variables after and gradients, by feature and by table."""
        devices, per_device, minibatches = mesh
        engine = engine_of(make_specs, devices, per_device, combiner)
        batch, _ = engine.encode(self.ids, self.gains)
        if minibatches:
            batch = in_minibatches(batch, *mesh)
        sharding = NamedSharding(engine.mesh, PartitionSpec(AXIS, None))
        tables = jax.device_put(self.stacked(engine), sharding)
        compiled = machine(make_specs, *mesh, platform)
        activations, updated, gradients = compiled(batch, tables, self.gradients)
        return activations, kernels.unstack_variables(engine.plan, updated), gradients

    def stacked(self, engine):
        """The tables and slots as an engine has them, in numpy; padding is 1."""
        blank = {}
        for stack in engine.plan.stacks:
            kind = jnp.bfloat16 if stack.name in HALF else np.float32
            widths = engine.optimizer(stack.name).slot_variables_widths(stack.width)
            blank[stack.name] = kernels.EmbeddingVariables(
                np.ones((stack.vocab_size, stack.width), kind),
                tuple(np.ones((stack.vocab_size, width), np.float32) for width in widths),
            )
        return kernels.stack_tables_into(engine.plan, blank, self.logical)

    def check(self, activations, after, table_gradients):
        rows = {name: np.asarray(v.table, np.float64) for name, v in self.logical.items()}
        for name, want in true_lookup(self.specs, rows, self.ids, self.gains).items():
            assert activations[name].dtype == np.float32
            np.testing.assert_allclose(activations[name], want, rtol=1e-4, atol=1e-5, err_msg=name)
        summed = true_gradients(self.specs, self.gradients, self.ids, self.gains)
        tables = {spec.table_spec.name: spec.table_spec for spec in self.specs.values()}
        for name, spec in tables.items():
            touched = sorted(summed[name])
            of_rows = np.array([summed[name][row] for row in touched])
            of_rows = of_rows.reshape(len(touched), spec.embedding_dim)
            check_gradients(table_gradients[name], touched, of_rows)
            check_update(spec.optimizer, self.logical[name], after[name], touched, of_rows)


def check_gradients(got, touched, summed):
    rows, values = np.asarray(got.rows), np.asarray(got.values)
    used = rows != kernels.NO_ROW
    order = np.argsort(rows[used])
    np.testing.assert_array_equal(rows[used][order], touched)
    assert not values[~used].any()
    np.testing.assert_allclose(values[used][order], summed, rtol=1e-4, atol=1e-5)


def check_update(optimizer, before, after, touched, summed):
    others = np.setdiff1d(np.arange(len(before.table)), touched)
    pairs = [(before.table, after.table), *zip(before.slot, after.slot, strict=True)]
    for was, mine in pairs:
        assert mine.dtype == was.dtype
        np.testing.assert_array_equal(mine[others], was[others])
    if not touched:
        return
    rows, *slots = (np.asarray(was[touched], np.float64) for was, _ in pairs)
    want, want_slots = true_step(optimizer, summed, rows, tuple(slots), STEP)
    for (_, mine), wanted in zip(pairs, (want, *want_slots), strict=True):
        close = 1e-2 if mine.dtype == jnp.bfloat16 else 1e-3
        np.testing.assert_allclose(
            np.asarray(mine[touched], np.float64), wanted, rtol=close, atol=close
        )


CASES = given(
    seed=st.integers(0, 2**32 - 1),
    combiner=st.sampled_from(COMBINERS),
    empty=st.sampled_from([0.0, 0.3, 1.0]),
    hot=st.sampled_from([0.0, 0.3, 1.0]),
)


@pytest.mark.parametrize("backend", PLATFORMS)
@pytest.mark.parametrize("mesh", MESHES, ids=str)
@CASES
@settings(max_examples=8, deadline=None)
def test_a_step_is_that_of_numpy(backend, mesh, seed, combiner, empty, hot):
    case = Case(few_specs, seed, combiner, empty, hot)
    case.check(*case.run(few_specs, mesh, PLATFORMS[backend], combiner))


@pytest.mark.system
@pytest.mark.parametrize("backend", PLATFORMS)
@pytest.mark.parametrize("mesh", ALL_MESHES, ids=str)
@CASES
@settings(max_examples=25, deadline=None)
def test_a_step_of_every_optimizer_is_that_of_numpy(backend, mesh, seed, combiner, empty, hot):
    case = Case(all_specs, seed, combiner, empty, hot)
    case.check(*case.run(all_specs, mesh, PLATFORMS[backend], combiner))


@pytest.mark.parametrize("seed", [0, 1])
def test_meshes_and_backends_agree_and_repeat_themselves_bit_by_bit(seed):
    case = Case(few_specs, seed)
    results = []
    for mesh in MESHES:
        for platform in PLATFORMS.values():
            result = case.run(few_specs, mesh, platform)
            again = case.run(few_specs, mesh, platform)
            for mine, repeated in zip(jax.tree.leaves(result), jax.tree.leaves(again), strict=True):
                np.testing.assert_array_equal(mine, repeated)
            results.append(jax.tree.leaves(result[:2]))
    for result in results[1:]:
        for mine, other in zip(result, results[0], strict=True):
            close = 1e-2 if mine.dtype == jnp.bfloat16 else 1e-5
            np.testing.assert_allclose(
                np.asarray(mine, np.float64), np.asarray(other, np.float64), rtol=close, atol=close
            )
