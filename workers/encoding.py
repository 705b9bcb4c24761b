"""One host's share of a batch, from ids to the buffers of the lookup."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from kernels import (
    EmbeddingPlan,
    FeatureSpec,
    PreprocessedInput,
    SparseDenseMatmulInputStats,
    preprocess_sparse_dense_matmul_input,
)
from workers.minibatches import GivenCuts
from workers.protocol import Observed, Squeezed

if TYPE_CHECKING:
    from workers.batches import RawBatch

__all__ = ["EncodedBatch", "encode", "observe"]


@dataclass(frozen=True)
class EncodedBatch:
    """A host's share of a batch with its ids in the buffers the lookup reads.

    Attributes:
        raw: What it was made of.
        inputs: The buffers.
        observed: Largest values, by table stack.
        cuts: Where it was cut into minibatches: see ``workers.minibatches``.
        squeezed: What was done where it exceeds the limits.
    """

    raw: RawBatch
    inputs: PreprocessedInput
    observed: Mapping[str, Observed]
    cuts: int = 0
    squeezed: Squeezed = field(default_factory=Squeezed)


def encode(
    raw: RawBatch,
    specs: Mapping[str, FeatureSpec],
    plan: EmbeddingPlan,
    *,
    drop_ids: bool = False,
    agreed: int = 0,
) -> EncodedBatch:
    """Preprocess a host's share of a batch.

    Args:
        raw: The share.
        specs: Feature specs with the plan applied.
        plan: The plan. If it has minibatching, a share that exceeds its limits is cut.
        drop_ids: Whether ids beyond the limits are left out.
        agreed: Where other hosts cut the batch.

    Raises:
        LimitsExceeded: The batch does not fit into the plan's limits.
    """
    link = GivenCuts(agreed)
    inputs, statistics = preprocess_sparse_dense_matmul_input(
        {
            # Of a sequence feature, every position is a sample.
            name: ids.reshape(-1, specs[name].input_shape[-1])
            for name, ids in raw.examples.ids.items()
        },
        None,
        dict(specs),
        plan.topology.devices_per_host,
        plan.topology.devices,
        num_sc_per_device=plan.topology.sparsecores_per_device,
        allow_id_dropping=drop_ids,
        enable_minibatching=plan.minibatching,
        all_reduce_interface=link if plan.minibatching else None,
    )
    minibatches = int(np.max(inputs.num_minibatches))
    dropped = {name: int(ids) for name, ids in statistics.id_drop_counters.items() if ids}
    squeezed = Squeezed(int(minibatches > 1), minibatches, dropped)
    return EncodedBatch(raw, inputs, observe(statistics, plan), link.own | agreed, squeezed)


def observe(statistics: SparseDenseMatmulInputStats, plan: EmbeddingPlan) -> dict[str, Observed]:
    """The largest values of a batch's statistics, by table stack."""
    sparsecores = plan.topology.sparsecores_per_device
    return {
        stack: Observed(
            int(np.max(statistics.max_ids_per_partition[stack])),
            int(np.max(statistics.max_unique_ids_per_partition[stack])),
            int(np.max(statistics.required_buffer_size_per_sc[stack])) * sparsecores,
        )
        for stack in statistics.max_ids_per_partition
    }
