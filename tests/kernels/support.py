"""Specs, batches and meshes for the tests of kernels, and plain-numpy truth to hold them to."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import kernels

AXIS = "shards"
INITIAL = "initial_accumulator_value"
NORMAL = jax.nn.initializers.normal(0.1)


def table(name: str, vocabulary: int, dim: int = 8, **options: Any) -> kernels.TableSpec:
    options = {
        "initializer": NORMAL,
        "optimizer": kernels.AdagradOptimizerSpec(0.1),
        "combiner": "sum",
    } | options
    return kernels.TableSpec(name=name, vocabulary_size=vocabulary, embedding_dim=dim, **options)


def feature(
    name: str, of: kernels.TableSpec, samples: int, valency: int | None = 1
) -> kernels.FeatureSpec:
    return kernels.FeatureSpec(
        name=name,
        table_spec=of,
        input_shape=(samples,) if valency is None else (samples, valency),
        output_shape=(samples, of.embedding_dim),
    )


def several_features(samples: int, **options: Any) -> dict[str, kernels.FeatureSpec]:
    """Four features on three tables, two of which share one."""
    users, items = table("users", 50, 12, **options), table("items", 131, 12, **options)
    days = table("days", 7, 12, **options)
    return {
        "user": feature("user", users, samples, 1),
        "clicked": feature("clicked", items, samples, 5),
        "shown": feature("shown", items, samples, 2),
        "day": feature("day", days, samples, 1),
    }


def random_ids(
    specs: Mapping[str, kernels.FeatureSpec], seed: int, *, padding: bool = True
) -> dict[str, np.ndarray]:
    """Ids with many duplicates; with padding, samples of different and of no ids."""
    rng = np.random.default_rng(seed)
    result = {}
    for name, spec in specs.items():
        ids = rng.integers(0, spec.table_spec.vocabulary_size, spec.input_shape)
        few = rng.integers(0, min(5, spec.table_spec.vocabulary_size), spec.input_shape)
        ids = np.where(rng.random(spec.input_shape) < 0.3, few, ids)
        if padding:
            ids = np.where(rng.random(spec.input_shape) < 0.2, -1, ids)
        result[name] = ids.astype(np.int32)
    return result


def mesh_of(devices: int) -> Mesh:
    kind = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((devices,), (AXIS,), devices=jax.devices()[:devices], axis_types=kind)


@dataclass
class Engine:
    """Everything to run lookup and update on a mesh."""

    specs: Any
    devices: int
    per_device: int = 1
    stack: bool = True
    limits: Mapping[str, kernels.Limits] | None = None

    def __post_init__(self) -> None:
        samples = {spec.output_shape[0] for spec in jax.tree.leaves(self.specs)}
        topology = kernels.Topology(1, self.devices, self.per_device)
        self.plan = kernels.build_plan(
            self.specs, topology, batch_size=min(samples), limits=self.limits, stack=self.stack
        )
        self.placed = kernels.apply_plan(self.plan, self.specs)
        self.mesh = mesh_of(self.devices)

    def optimizer(self, stack: str) -> kernels.OptimizerSpec:
        """The optimizer of a stack."""
        return kernels.get_stacked_table_specs(self.placed)[stack].optimizer

    def initialize(self, seed: int = 0) -> dict[str, kernels.EmbeddingVariables]:
        return kernels.initialize_tables(self.plan, self.specs, self.mesh, seed)

    def tables(self, seed: int = 0) -> dict[str, kernels.EmbeddingVariables]:
        """Random tables, the same on every mesh; made in numpy, as that compiles nothing."""
        logical, blank = {}, {}
        specs = kernels.get_table_specs(self.placed)
        for number, (name, spec) in enumerate(sorted(specs.items())):
            rng = np.random.default_rng([seed, number])
            rows = rng.normal(0, 0.1, (spec.vocabulary_size, spec.embedding_dim))
            optimizer, columns = spec.optimizer, spec.embedding_dim
            slots = [
                np.full(
                    (spec.vocabulary_size, width),
                    optimizer.parameters().get(INITIAL, 0.1),
                    np.float32,
                )
                for width in optimizer.slot_variables_widths(columns)
            ]
            logical[name] = kernels.EmbeddingVariables(rows.astype(np.float32), tuple(slots))
        for stack in self.plan.stacks:
            optimizer = specs[stack.tables[0].table].optimizer
            slots = tuple(
                np.full(
                    (stack.vocab_size, width), optimizer.parameters().get(INITIAL, 0.1), np.float32
                )
                for width in optimizer.slot_variables_widths(stack.width)
            )
            blank[stack.name] = kernels.EmbeddingVariables(
                np.zeros((stack.vocab_size, stack.width), np.float32), slots
            )
        sharding = NamedSharding(self.mesh, PartitionSpec(AXIS, None))
        stacked = kernels.stack_tables_into(self.plan, blank, logical)
        return jax.tree.map(lambda array: jax.device_put(array, sharding), stacked)

    def encode(self, ids: Any, gains: Any = None, **options: Any) -> Any:
        return kernels.preprocess_sparse_dense_matmul_input(
            ids,
            gains,
            self.placed,
            self.devices,
            self.devices,
            num_sc_per_device=self.per_device,
            **options,
        )

    def sharded(self, function: Any, inputs: int, **options: Any) -> Any:
        """The function on shards of every input."""
        spec = PartitionSpec(AXIS)
        return jax.shard_map(
            functools.partial(
                function, feature_specs=self.placed, num_sc_per_device=self.per_device, **options
            ),
            mesh=self.mesh,
            in_specs=(spec,) * inputs,
            out_specs=spec,
            check_vma=False,
        )

    def lookup(self, batch: Any, tables: Any) -> Any:
        return self._lookup(batch, tables)

    @functools.cached_property
    def _lookup(self) -> Any:
        devices = self.mesh.size
        run = self.sharded(kernels.tpu_sparse_dense_matmul, 2, global_device_count=devices)
        return fast_jit(run)

    def update(self, gradients: Any, batch: Any, tables: Any, **options: Any) -> Any:
        run = self.sharded(kernels.tpu_sparse_dense_matmul_grad, 3, **options)
        return fast_jit(run, donate_argnums=2)(gradients, batch, tables)


def fast_jit(function: Any, **options: Any) -> Any:
    """Jit that compiles quickly instead of well."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0}, **options)


def sample_gains(
    spec: kernels.FeatureSpec, ids: Sequence[int], gains: Sequence[float]
) -> list[tuple[int, float]]:
    """(id, gain under the combiner) of one sample, padding left out."""
    pairs = [(int(i), float(g)) for i, g in zip(ids, gains, strict=True) if i >= 0]
    combiner = spec.table_spec.combiner
    divisor = 1.0
    if pairs and combiner == "mean":
        divisor = sum(gain for _, gain in pairs)
    if pairs and combiner == "sqrtn":
        divisor = np.sqrt(sum(gain**2 for _, gain in pairs))
    return [(i, gain / divisor) for i, gain in pairs]


def true_lookup(
    specs: Mapping[str, kernels.FeatureSpec],
    tables: Mapping[str, np.ndarray],
    ids: Mapping[str, Any],
    gains: Mapping[str, Any] | None = None,
) -> dict[str, np.ndarray]:
    """Activations, one sample and one id at a time, in float64."""
    result = {}
    for name, spec in specs.items():
        rows = tables[spec.table_spec.name].astype(np.float64)
        out = np.zeros((len(ids[name]), spec.output_shape[-1]))
        for number, sample in enumerate(ids[name]):
            weights = np.ones(len(sample)) if gains is None else gains[name][number]
            for i, gain in sample_gains(spec, sample, weights):
                out[number] += gain * rows[i, : out.shape[1]]
        result[name] = out
    return result


def true_gradients(
    specs: Mapping[str, kernels.FeatureSpec],
    gradients: Mapping[str, np.ndarray],
    ids: Mapping[str, Any],
    gains: Mapping[str, Any] | None = None,
) -> dict[str, dict[int, np.ndarray]]:
    """By table, the summed gradient of every row of the batch, in float64."""
    result: dict[str, dict[int, np.ndarray]] = {}
    for name, spec in specs.items():
        mine = result.setdefault(spec.table_spec.name, {})
        for number, sample in enumerate(ids[name]):
            weights = np.ones(len(sample)) if gains is None else gains[name][number]
            for i, gain in sample_gains(spec, sample, weights):
                add = np.zeros(spec.table_spec.embedding_dim)
                given = gradients[name][number].astype(np.float64)
                add[: given.size] = gain * given
                mine[i] = mine.get(i, 0.0) + add
    return result
