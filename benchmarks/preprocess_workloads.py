"""Batches to preprocess: specs for both libraries, and the same ids as dense, ragged and Arrow."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import pyarrow as pa

import kernels
from kernels.preprocessing.format import PARTITION_ALIGNMENT
from kernels.utils import round_up
from tests.kernels import peer

SPARSECORES = 4
HEADROOM = 1.1
"""Limits above what the batch needs, as a run that knows its data would have them."""


@dataclass(frozen=True)
class Workload:
    """What a batch looks like."""

    name: str
    tables: int
    rows: int
    width: int
    valency: int
    zipf: float | None
    """Exponent; None draws ids evenly."""
    has_gains: bool
    combiner: str
    batch: int = 4096

    def specs(self) -> dict[str, kernels.FeatureSpec]:
        """One feature for every table, not placed yet."""
        result = {}
        for number in range(self.tables):
            table = kernels.TableSpec(
                name=f"table{number:02}",
                vocabulary_size=self.rows,
                embedding_dim=self.width,
                initializer=jax.nn.initializers.zeros,
                optimizer=kernels.AdagradOptimizerSpec(0.05),
                combiner=self.combiner,
            )
            result[f"feature{number:02}"] = kernels.FeatureSpec(
                name=f"feature{number:02}",
                table_spec=table,
                input_shape=(self.batch, self.valency),
                output_shape=(self.batch, self.width),
            )
        return result

    @functools.cached_property
    def dense(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray] | None]:
        """Ids and gains, ``[batch, valency]``."""
        rng = np.random.default_rng(7)
        shape = (self.batch, self.valency)
        names = [f"feature{number:02}" for number in range(self.tables)]
        if self.zipf is None:
            ids = {name: rng.integers(0, self.rows, shape, dtype=np.int32) for name in names}
        else:
            weight = np.cumsum(np.arange(1, self.rows + 1, dtype=np.float64) ** -self.zipf)
            ids = {}
            for name in names:
                rank = np.searchsorted(weight, rng.random(shape) * weight[-1])
                ids[name] = rng.permutation(self.rows).astype(np.int32)[rank]
        if not self.has_gains:
            return ids, None
        return ids, {name: rng.uniform(0.5, 2, shape).astype(np.float32) for name in names}


WORKLOADS = (
    Workload("26 × 200k rows, valency 1", 26, 200_000, 64, 1, None, False, "sum"),
    Workload("8 × 1M rows, valency 20, gains", 8, 1_000_000, 128, 20, 1.05, True, "mean"),
)


def ragged(arrays: Mapping[str, np.ndarray] | None) -> dict[str, np.ndarray] | None:
    """Object arrays of rows that are arrays of their own."""
    if arrays is None:
        return None
    result = {}
    for name, array in arrays.items():
        rows = np.empty(len(array), dtype=object)
        for number, row in enumerate(array):
            rows[number] = row.copy()
        result[name] = rows
    return result


def arrow(arrays: Mapping[str, np.ndarray] | None) -> dict[str, Any] | None:
    """Arrow ``ListArray``s."""
    if arrays is None:
        return None
    return {
        name: pa.ListArray.from_arrays(
            np.arange(len(array) + 1, dtype=np.int32) * array.shape[1], array.reshape(-1)
        )
        for name, array in arrays.items()
    }


@dataclass(frozen=True)
class Placed:
    """A workload on a number of devices, with limits that fit it."""

    workload: Workload
    devices: int
    ours: dict[str, kernels.FeatureSpec]
    theirs: dict[str, Any]

    @classmethod
    def of(cls, workload: Workload, devices: int) -> Placed:
        """Stack the tables, look at one batch, and set the limits."""
        specs = workload.specs()
        topology = kernels.Topology(1, devices, SPARSECORES)
        plan = kernels.build_plan(specs, topology, batch_size=workload.batch)
        ids, gains = workload.dense
        generous = cls(workload, devices, kernels.apply_plan(plan, specs), {})
        _, stats = generous.run_ours(ids, gains)()
        limits = {}
        for name, needed in stats.required_buffer_size_per_sc.items():
            seen = (stats.max_ids_per_partition[name], stats.max_unique_ids_per_partition[name])
            most, unique, buffer = (int(np.max(value) * HEADROOM) for value in (*seen, needed))
            limits[name] = kernels.Limits(
                most, unique, round_up(buffer, PARTITION_ALIGNMENT) * SPARSECORES
            )
        placed = kernels.apply_plan(plan.with_limits(limits), specs)
        return cls(workload, devices, placed, peer.placed_like(placed))

    def run_ours(self, ids: Any, gains: Any) -> Callable[[], Any]:
        """Our preprocessing of one batch."""
        return self._run(kernels.preprocess_sparse_dense_matmul_input, ids, gains, self.ours)

    def run_theirs(self, ids: Any, gains: Any) -> Callable[[], Any]:
        """The wheel's."""
        run = peer.embedding.preprocess_sparse_dense_matmul_input
        return self._run(run, ids, gains, self.theirs)

    def _run(self, function: Callable[..., Any], ids: Any, gains: Any, specs: Any) -> Any:
        return functools.partial(
            function, ids, gains, specs, self.devices, self.devices, num_sc_per_device=SPARSECORES
        )
