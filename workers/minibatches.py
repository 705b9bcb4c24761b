"""Minibatches that all hosts agree on inside the train step, without a link of their own.

A batch that exceeds its limits on one host is looked up in several rounds by all (see
``kernels.preprocessing.minibatching``). Where rows are cut into rounds is a number of 63 bits, and
what the hosts need together is the bitwise OR of their numbers. It rides in the sum that every
train step takes over the devices anyway, ahead of the batch it is about:

    step            t            t + 1          t + 2
    rides along     cuts(t + 2)  cuts(t + 3)    cuts(t + 4)       each host's own
    comes out       agreed(t + 2) ...                             the same on all
    encoded with    agreed(t)    agreed(t + 1)  agreed(t + 2)

So while step t + 1 runs, all hosts know how batch t + 2 is to be cut, and nobody has waited for
anybody. Where nothing could ride along (the first batches after a start, those after a batch that
was passed over, evaluations), the numbers are summed by a computation of their own.

A host encodes every batch with its own cuts, ahead of training. Only if others need more is the
batch encoded again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from kernels.preprocessing.minibatching import BUCKETS
from workers.mesh import AXIS, spread

__all__ = ["AHEAD", "CUTS", "GivenCuts", "agree", "bits_of", "cuts_of", "on_devices"]

AHEAD = 2
"""Steps between the one that a number rides in and the batch it is about: the outcome of the step
before the one that runs is there without waiting."""

CUTS = BUCKETS - 1
"""Places where a batch may be cut: bits of the number."""


class GivenCuts:
    """Stands in for the other hosts while a batch is encoded: their cuts are known already.

    It is a `kernels.AllReduceInterface` for a single batch.

    Args:
        others: What all hosts agreed on; 0 encodes the batch as this host alone needs it.

    Attributes:
        own: What this host alone needs, once the batch has been encoded.

    Example:
        >>> link = GivenCuts()
        >>> batch, _ = kernels.preprocess_sparse_dense_matmul_input(  # doctest: +SKIP
        ...     ids, None, specs, 2, 4, enable_minibatching=True, all_reduce_interface=link)
        >>> link.own                                                  # doctest: +SKIP
        0
    """

    def __init__(self, others: int = 0) -> None:
        self._others = others
        self.own = 0

    def all_reduce(self, key: int, value: int) -> int:
        """Whether there are cuts at all (even keys), or where (odd keys): see `Minibatching`."""
        if key % 2 == 0:
            return value | int(self._others != 0)
        self.own = value
        return value | self._others


def bits_of(cuts: int) -> np.ndarray:
    """The bits of a number of cuts, lowest first, int32 ``[CUTS]``."""
    return np.array([cuts >> place & 1 for place in range(CUTS)], np.int32)


def cuts_of(counts: Any) -> int:
    """The number whose bits are set where a count of hosts or devices is above 0: `bits_of` undone.

    Args:
        counts: ``[CUTS]``.
    """
    return sum(1 << int(place) for place in np.flatnonzero(np.asarray(counts)))


@functools.lru_cache(maxsize=8)  # no cuts at all is by far the most frequent
def on_devices(cuts: tuple[int, ...], mesh: Mesh) -> jax.Array:
    """Numbers of this host as bits on its devices.

    Args:
        cuts: One or several.
        mesh: All devices.

    Returns:
        int32 ``[devices, CUTS * numbers]``, spread over the devices.
    """
    bits = np.concatenate([bits_of(number) for number in cuts])
    own = np.broadcast_to(bits, (len(mesh.local_devices), bits.size))
    return jax.make_array_from_process_local_data(spread(mesh), own)


def agree(cuts: Sequence[int], mesh: Mesh) -> list[int]:
    """The bitwise OR over all hosts of each number. Every host calls this with as many.

    Waits for the other hosts, as every computation on the mesh does.

    Args:
        cuts: This host's numbers.
        mesh: All devices.
    """
    counts = np.asarray(_summed(mesh)(on_devices(tuple(cuts), mesh)))
    return [cuts_of(part) for part in counts.reshape(len(cuts), CUTS)]


@functools.cache
def _summed(mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
    """Compiled once for a mesh and a length."""
    mapped = jax.shard_map(
        lambda bits: jnp.sum(jax.lax.psum(bits, AXIS), axis=0),
        mesh=mesh,
        in_specs=PartitionSpec(AXIS),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    return jax.jit(mapped)
