"""The TPU backend against jax-tpu-embedding: the same SparseCore calls, call for call."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax_tpu_embedding.sparsecore.lib.nn import embedding as peer_embedding
from jax_tpu_embedding.sparsecore.lib.nn import embedding_spec as peer_spec

import kernels
from kernels.preprocessing.format import row_pointers_per_sparsecore
from tests.kernels.lowered_calls import evaluate, sparsecore_calls
from tests.kernels.peer import placed_like
from tests.kernels.support import AXIS, Engine, several_features

DEVICES, PER_DEVICE, SAMPLES = 4, 2, 64
MINIBATCHES = 2


def signs(gradient: jax.Array, row: jax.Array, seen: jax.Array, rate: jax.Array) -> Any:
    return row - rate * jnp.sign(gradient) / jnp.sqrt(seen), seen + 1.0


SIGNS = kernels.CustomOptimizerSpec.lower_to_stablehlo(signs, 16, num_slot_variables=1)
ONES = (jax.nn.initializers.ones,)
OPTIMIZERS = {
    "sgd": kernels.SGDOptimizerSpec(0.1),
    "schedule": kernels.SGDOptimizerSpec(lambda step: 0.5 / (1.0 + step)),
    "adagrad": kernels.AdagradOptimizerSpec(0.1),
    "adagrad_momentum": kernels.AdagradMomentumOptimizerSpec(0.1, beta2=0.9, use_nesterov=True),
    "adam": kernels.AdamOptimizerSpec(0.1),
    "ftrl": kernels.FTRLOptimizerSpec(0.1, l1_regularization_strength=0.2, beta=0.1),
    "ftrl_multiplied": kernels.FTRLOptimizerSpec(
        0.1, l1_regularization_strength=0.2, multiply_linear_by_learning_rate=True
    ),
    "laprop": kernels.LaPropOptimizerSpec(0.1),
    "f2a": kernels.F2AOptimizerSpec(0.1, l1_regularization_strength=0.1),
    "custom": kernels.CustomOptimizerSpec(0.1, signs, None, ONES),
    "custom_stablehlo": kernels.CustomOptimizerSpec(0.1, None, SIGNS, ONES),
}


def shapes(engine: Engine, minibatching: bool) -> tuple[Any, Any, Any]:
    """Buffers, variables and activation gradients of all devices, as shapes."""

    def of(shape: tuple[int, ...], kind: Any = jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, kind)

    cores = DEVICES * PER_DEVICE
    pointers = cores * row_pointers_per_sparsecore(cores) * (MINIBATCHES if minibatching else 1)
    buffers: Any = ({}, {}, {}, {})
    variables = {}
    for stack in engine.plan.stacks:
        entries = (stack.limits.buffer_size_per_device * DEVICES,)
        arrays = (of((pointers,), jnp.int32), *[of(entries, jnp.int32)] * 2, of(entries))
        for part, array in zip(buffers, arrays, strict=True):
            part[stack.name] = array
        slots = engine.optimizer(stack.name).slot_variables_widths(stack.width)
        variables[stack.name] = [of((stack.vocab_size, w)) for w in (stack.width, *slots)]
    gradients = {name: of(spec.output_shape) for name, spec in engine.placed.items()}
    return (*buffers, of((DEVICES,), jnp.int32)), variables, gradients


class Both:
    """One program in both libraries, lowered for TPUs on this machine."""

    def __init__(self, optimizer: kernels.OptimizerSpec, stack: bool, minibatching: bool) -> None:
        self.engine = Engine(
            several_features(SAMPLES, optimizer=optimizer), DEVICES, PER_DEVICE, stack
        )
        self.minibatching = minibatching
        self.shapes = shapes(self.engine, minibatching)

    def lookup(self, theirs: Any = None, **options: Any) -> tuple[Any, Any]:
        def run(library: Any, specs: Any, more: Any) -> Any:
            def device(buffers: Any, variables: Any) -> Any:
                return library.tpu_sparse_dense_matmul(
                    self.inputs(library, buffers),
                    self.variables(library, variables),
                    specs,
                    global_device_count=DEVICES,
                    num_sc_per_device=PER_DEVICE,
                    enable_minibatching=self.minibatching,
                    **options,
                    **more,
                )

            return self.lowered(device, *self.shapes[:2])

        return self.in_both(run, theirs)

    def update(self, **options: Any) -> tuple[Any, Any]:
        def run(library: Any, specs: Any, more: Any) -> Any:
            def device(buffers: Any, variables: Any, gradients: Any) -> Any:
                return library.tpu_sparse_dense_matmul_grad(
                    gradients,
                    self.inputs(library, buffers),
                    self.variables(library, variables),
                    specs,
                    global_device_count=DEVICES,
                    num_sc_per_device=PER_DEVICE,
                    enable_minibatching=self.minibatching,
                    step=3,
                    **options,
                    **more,
                )

            return self.lowered(device, *self.shapes)

        return self.in_both(run)

    def in_both(self, run: Any, theirs: Any = None) -> tuple[Any, Any]:
        ours = run(kernels, self.engine.placed, {"platform": "tpu"})
        return ours, run(peer_embedding, theirs or placed_like(self.engine.placed), {})

    def inputs(self, library: Any, buffers: Any) -> Any:
        return library.PreprocessedInput(library.SparseDenseMatmulInput(*buffers[:4]), buffers[4])

    def variables(self, library: Any, arrays: Any) -> Any:
        return {
            name: library.EmbeddingVariables(table, tuple(slots))
            for name, (table, *slots) in arrays.items()
        }

    def lowered(self, device: Any, *arguments: Any) -> Any:
        def and_its_inputs(buffers: Any, *rest: Any) -> Any:
            return device(buffers, *rest), buffers  # an unused argument would not be counted

        spec = jax.sharding.PartitionSpec(AXIS)
        mapped = jax.shard_map(
            and_its_inputs,
            mesh=self.engine.mesh,
            in_specs=(spec,) * len(arguments),
            out_specs=spec,
            check_vma=False,
        )
        return jax.jit(mapped).trace(*arguments).lower(lowering_platforms=("tpu",))


def calls(lowered: Any) -> list[Any]:
    """The calls without the names of what they call."""
    return [dataclasses.replace(call, computation=None) for call in sparsecore_calls(lowered)]


@pytest.mark.parametrize("minibatching", [False, True])
@pytest.mark.parametrize("stack", [True, False])
@pytest.mark.parametrize(
    ("options", "calls_per_stack"),
    [({}, 1), ({"perform_unstacking": False}, 1), ({"use_activation_unstack_primitive": True}, 2)],
    ids=["unstacked", "by stack", "unstacked by SparseCores"],
)
def test_the_lookup_is_the_same(
    options: Any, calls_per_stack: int, stack: bool, minibatching: bool
) -> None:
    both = Both(OPTIMIZERS["sgd"], stack, minibatching)
    ours, theirs = both.lookup(**options)
    assert calls(ours) == calls(theirs)
    assert len(calls(ours)) == calls_per_stack * len(both.engine.plan.stacks)


def test_the_lookup_is_the_same_for_quantized_tables() -> None:
    both = Both(OPTIMIZERS["sgd"], True, False)
    theirs = placed_like(both.engine.placed)
    for specs, kind in ((both.engine.placed, kernels), (theirs, peer_spec)):
        for spec in specs.values():
            spec.table_spec.stacked_table_spec = dataclasses.replace(
                spec.table_spec.stacked_table_spec,
                quantization_config=kind.QuantizationConfig(
                    min_value=-1.0, max_value=1.0, num_buckets=256
                ),
            )
    mine, other = (calls(lowered) for lowered in both.lookup(theirs))
    assert mine == other
    quantization = mine[0].config["sparse_dense_matmul_config"]["quantization_config"]
    assert quantization == {"min_value": -1.0, "max_value": 1.0, "num_buckets": 256}


@pytest.mark.parametrize("minibatching", [False, True])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_update_is_the_same(kind: str, minibatching: bool) -> None:
    both = Both(OPTIMIZERS[kind], True, minibatching)
    ours, theirs = both.update()
    (mine,), (other,) = calls(ours), calls(theirs)
    if kind == "adagrad_momentum" and minibatching:
        # XLA's TPU compiler knows no such target, and dies of it: here ours must differ.
        assert other.target == "SparseDenseMatmulGradOpWithOptimizerUpdateWithMinibatching"
        gradients = other.operands[5]
        reordered = (*other.operands[:5], *other.operands[6:9], gradients, *other.operands[9:])
        other = dataclasses.replace(
            other,
            target="SparseDenseMatmulGradOptimizerUpdateWithMinibatchingOp",
            operands=reordered,
        )
    assert mine == other


@pytest.mark.parametrize("options", [{}, {"use_gradient_stacking_primitive": True}])
def test_the_update_of_several_stacks_is_the_same(options: Any) -> None:
    ours, theirs = Both(OPTIMIZERS["adagrad"], False, False).update(**options)
    assert calls(ours) == calls(theirs)
    assert len(calls(ours)) == 3 * (1 + len(options))


ONE_SIDED = [(kind, b) for kind in ("adagrad", "custom") for b in ((-0.5, None), (None, 0.25))]


@pytest.mark.parametrize(
    ("kind", "bounds"),
    [(kind, b) for kind in OPTIMIZERS for b in ((None, None), (-0.5, 0.25))] + ONE_SIDED,
)
def test_the_optimizers_computation_means_the_same(kind: str, bounds: Any) -> None:
    both = Both(OPTIMIZERS[kind], True, False)
    (stack,) = both.engine.plan.stacks
    ours, theirs = both.update(embedding_var_limits={stack.name: bounds})
    (mine,), (other,) = sparsecore_calls(ours), sparsecore_calls(theirs)
    assert mine.computation == other.computation
    optimizer = both.engine.optimizer(stack.name)
    slots = optimizer.slot_variables_count()
    rng = np.random.default_rng(5)
    rows = [rng.normal(size=(1, stack.width)), rng.normal(size=(1, stack.width))]
    rows += [rng.uniform(0.1, 2.0, (1, stack.width)) for _ in range(slots)]
    arrays = [jnp.asarray(row, jnp.float32) for row in rows]
    numbers = optimizer.get_hyperparameters(3)
    arrays += [jnp.broadcast_to(value, (1, stack.width)) for value in numbers]
    got = evaluate(ours, mine.computation, arrays, 1 + slots)
    want = evaluate(theirs, other.computation, arrays, 1 + slots)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-7)
    assert not np.array_equal(got[0], arrays[1])


def test_what_sparsecores_cannot_do_is_refused() -> None:
    row_wise = Both(kernels.RowWiseAdagradOptimizerSpec(0.1), True, False)
    with pytest.raises(kernels.SpecError, match=r"row-wise Adagrad .* use AdagradOptimizerSpec"):
        row_wise.update()
