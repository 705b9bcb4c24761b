"""A first guess of a stack's limits, from nothing but batch size and valency."""

from __future__ import annotations

import math

from kernels.errors import SpecError

__all__ = ["estimate_preprocessing_parameters"]

_ALIGNMENT = 8


def estimate_preprocessing_parameters(
    *,
    global_batch_size: int,
    global_device_count: int,
    num_sc_per_device: int,
    valency: float,
    hot_shard_fraction: float = 0.20,
    headroom_factor: float = 1.25,
) -> dict[str, int]:
    r"""Limits to start from when no data has been seen yet.

    A SparseCore looks up :math:`n` ids a batch. A share :math:`h` of them goes to the SparseCore
    with the hot rows, the rest evenly to all :math:`S`; two standard deviations are added for
    chance, and :math:`f` for headroom:

    .. math:: m = f \left(h n + (1 - h) \frac{n}{S} + 2 \sqrt{n / S}\right)

    Observed statistics are better: see `kernels.raise_limits`. The formula is that of
    ``utils.estimate_preprocessing_parameters`` of jax-tpu-embedding 0.2.0.

    Args:
        global_batch_size: Samples of a global batch.
        global_device_count: Devices of the mesh.
        num_sc_per_device: SparseCores of a device.
        valency: Ids of a sample, over all features of the stack.
        hot_shard_fraction: Share of the ids that goes to the hottest SparseCore, :math:`h`.
        headroom_factor: :math:`f`.

    Returns:
        ``max_ids_per_partition`` (:math:`m`), ``max_unique_ids_per_partition`` (half of it), both
        multiples of 8, and ``suggested_coo_buffer_size_per_device``, a multiple of 8 times the
        device's SparseCores.

    Raises:
        SpecError: If one of the first four is not positive.
    """
    given = {
        "global_batch_size": global_batch_size,
        "global_device_count": global_device_count,
        "num_sc_per_device": num_sc_per_device,
        "valency": valency,
    }
    for name, value in given.items():
        if value <= 0:
            raise SpecError(f"{name} is {value}; give a positive number")

    samples_of_device = global_batch_size // global_device_count
    sparsecores = global_device_count * num_sc_per_device
    ids = samples_of_device // num_sc_per_device * valency
    hot = hot_shard_fraction * ids
    cold = (1.0 - hot_shard_fraction) * ids / sparsecores
    chance = 2.0 * math.sqrt(ids / sparsecores)
    peak = headroom_factor * (hot + cold + chance)

    max_ids = _aligned(peak, _ALIGNMENT)
    # 14 entries a partition: 7 of padding on average, twice over for chance.
    buffer = max(num_sc_per_device * max_ids, 1.2 * samples_of_device * valency + 14 * sparsecores)
    return {
        "max_ids_per_partition": max_ids,
        "max_unique_ids_per_partition": _aligned(0.5 * peak, _ALIGNMENT),
        "suggested_coo_buffer_size_per_device": _aligned(buffer, _ALIGNMENT * num_sc_per_device),
    }


def _aligned(value: float, multiple: int) -> int:
    return math.ceil(value / multiple) * multiple
