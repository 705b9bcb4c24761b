"""What both flax layers do: the tables of some features on a mesh, looked up and updated."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kernels.autograd import lookup_whose_gradient_updates
from kernels.errors import SpecError
from kernels.initialization import init_embedding_variables
from kernels.lookup import tpu_sparse_dense_matmul
from kernels.planning.stacking import get_table_specs
from kernels.preprocessing.format import PreprocessedInput
from kernels.specs import FeatureSpec, Nested
from kernels.update import tpu_sparse_dense_matmul_grad
from kernels.variables import EmbeddingVariables

__all__ = ["MeshTables", "Tables"]

type Tables = Mapping[str, EmbeddingVariables]
"""By stack, its table and slot variables, sharded by rows."""


@dataclass(frozen=True, eq=False)
class MeshTables:
    """Tables of features that have been stacked, sharded over axes of a mesh.

    All functions take and give global arrays, and can be called under `jax.jit`.
    """

    feature_specs: Nested[FeatureSpec]
    mesh: Mesh
    sharding_axis: str | tuple[str, ...]
    """The mesh axes that rows and samples are sharded over; over others they are replicated."""
    num_sc_per_device: int
    table_sharding_strategy: str = "MOD"
    enable_minibatching: bool = False

    def __post_init__(self) -> None:
        if unknown := set(self.axis_names) - set(self.mesh.axis_names):
            raise SpecError(
                f"sharding_axis names {sorted(unknown)}, but the mesh has the axes "
                f"{list(self.mesh.axis_names)}; name some of these"
            )

    @property
    def axis_names(self) -> tuple[str, ...]:
        """The axes as a tuple."""
        axis = self.sharding_axis
        return (axis,) if isinstance(axis, str) else tuple(axis)

    @property
    def num_shards(self) -> int:
        """Devices that hold different rows."""
        return math.prod(self.mesh.shape[axis] for axis in self.axis_names)

    @property
    def table_partition(self) -> PartitionSpec:
        """How tables ``[rows, width]`` are sharded."""
        return PartitionSpec(self.sharding_axis, None)

    @property
    def data_partition(self) -> PartitionSpec:
        """How buffers and activations ``[samples, columns]`` are sharded."""
        return PartitionSpec(self.sharding_axis)

    def initialize(self, rng: jax.Array) -> dict[str, EmbeddingVariables]:
        """First values, see `init_embedding_variables`."""
        return init_embedding_variables(
            rng,
            get_table_specs(self.feature_specs),
            NamedSharding(self.mesh, self.table_partition),
            self.num_sc_per_device,
            bypass_mesh_check=True,  # the mesh is given, and used for everything
        )

    def lookup(self, batch: PreprocessedInput, tables: Tables) -> Nested[jax.Array]:
        """Activations in the structure of the features, of the type of their tables."""
        look = self._on_shards(
            functools.partial(
                tpu_sparse_dense_matmul,
                feature_specs=self.feature_specs,
                global_device_count=self.num_shards,
                **self._options(),
            ),
            (self.data_partition, self.table_partition),
            self.data_partition,
        )

        def as_table(activation: jax.Array, spec: FeatureSpec) -> jax.Array:
            stack = tables[spec.table_spec.stacked_table_spec.stack_name]
            return activation.astype(jax.tree.leaves(stack)[0].dtype)

        return jax.tree.map(as_table, look(batch, tables), self.feature_specs)

    def update(
        self,
        gradients: Nested[jax.Array],
        batch: PreprocessedInput,
        tables: Tables,
        step: jax.Array | int | None = None,
    ) -> Tables:
        """The tables after one optimizer step, in the structure and types they came in."""

        def of_device(gradients: Any, batch: Any, tables: Any, step: Any) -> Any:
            updated = tpu_sparse_dense_matmul_grad(
                gradients,
                batch,
                tables,
                self.feature_specs,
                global_device_count=self.num_shards,
                step=step,
                **self._options(),
            )
            return jax.tree.unflatten(jax.tree.structure(tables), jax.tree.leaves(updated))

        rows, samples = self.table_partition, self.data_partition
        run = self._on_shards(of_device, (samples, samples, rows, PartitionSpec()), rows)
        floats = jax.tree.map(lambda gradient: gradient.astype(jnp.float32), gradients)
        updated = run(floats, batch, tables, step)
        return jax.tree.map(lambda new, old: new.astype(old.dtype), updated, tables)

    def lookup_that_updates(
        self, batch: PreprocessedInput, tables: Tables, step: jax.Array | int | None = None
    ) -> Nested[jax.Array]:
        """`lookup`, whose gradient by ``tables`` is the tables after an optimizer step.

        Not a gradient at all: what `jax.grad` returns for the tables is to replace them.
        """
        look = lookup_whose_gradient_updates(self.lookup, self.update)
        return look(batch, tables, step)

    def _options(self) -> dict[str, Any]:
        return {
            "sharding_strategy": self.table_sharding_strategy,
            "num_sc_per_device": self.num_sc_per_device,
            "enable_minibatching": self.enable_minibatching,
            "platform": self.mesh.devices.flat[0].platform,
            "axis_names": self.axis_names,
        }

    def _on_shards(self, function: Any, in_specs: Any, out_specs: Any) -> Any:
        return jax.shard_map(
            function, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
        )
