"""Published speeds of TPU chips, and what they come to on a slice.

Source: the table of specifications on Google Cloud's page "TPU7x (Ironwood)"
(docs.cloud.google.com/tpu/docs/tpu7x), which compares v5p, v6e and TPU7x; read in November 2026.
"Bidirectional" bandwidth counts both directions of a chip's links, so a link carries in one
direction the whole divided by twice the links: four of a chip in a flat torus (v6e), six otherwise.
That fits the bisection bandwidth of a v6e pod on the page "TPU v6e", 3.2 TB/s.

Which links close a ring: those of a v6e axis of 16 chips, and all of a slice of whole cubes of
4 × 4 × 4 chips (pages "TPU v6e" and "TPU v5p"). Other slices are grids with ends.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.topology import SliceTopology

__all__ = ["CHIPS", "ChipSpeeds", "all_reduce_speed", "all_to_all_speed"]

_GB = 1e9


@dataclass(frozen=True)
class ChipSpeeds:
    """Peaks of one chip, as published."""

    operations: float
    """Floating-point operations a second, bfloat16: what a TPU multiplies float32 matrices with,
    unless told otherwise."""
    memory: float
    """Bytes a second of its HBM."""
    link: float
    """Bytes a second of one of its links to other chips (ICI), in one direction."""
    network: float
    """Bytes a second of its share of the data centre's network (DCN)."""
    sparsecores: int


CHIPS: Mapping[str, ChipSpeeds] = {
    "v5p": ChipSpeeds(459e12, 2765 * _GB, 1200 * _GB / 12, 50 * _GB / 8, 4),
    "v6e": ChipSpeeds(918e12, 1638 * _GB, 800 * _GB / 8, 100 * _GB / 8, 2),
    "7x": ChipSpeeds(2307e12, 7380 * _GB, 1200 * _GB / 12, 100 * _GB / 8, 4),
}
"""By generation."""


def all_to_all_speed(topology: SliceTopology) -> float:
    """Bytes a second that every chip can send, when all send to all alike.

    The links across the middle of an axis carry what one half sends to the other. With n of a
    slice's N chips along an axis, of which half are on either side, a chip sends (N / 2) / (N - 1)
    of what it sends across; the N / 2 chips of a half share N / n links, twice as many in a ring.
    Between slices, the network carries what does not stay in the slice.

    Returns:
        Infinity for one chip alone.

    Example:
        >>> all_to_all_speed(slice_topology("v6e-256")) / 1e9          # 16 × 16 chips, a torus
        49.8046875
    """
    chips, slices = topology.chips, topology.slices
    every = chips * slices
    if every == 1:
        return math.inf
    link = CHIPS[topology.generation.name].link
    inside = (chips - 1) / (every - 1)
    across_axes = [
        inside * n * chips / (4 * (chips - 1) * _ways(topology, n) * link)
        for n in topology.dimensions
        if n > 1
    ]
    network = (1 - inside) / CHIPS[topology.generation.name].network
    return 1 / max(network, *across_axes, 0.0)


def all_reduce_speed(topology: SliceTopology) -> float:
    """Bytes a second of arrays that all chips can sum, each having an array of its own.

    Every byte passes every chip twice, by rings or lines along all axes at the same time. Between
    slices, every chip carries its share of the slice's sum over the network.

    Returns:
        Infinity for one chip alone.
    """
    speeds = CHIPS[topology.generation.name]
    ways = sum(_ways(topology, n) for n in topology.dimensions if n > 1)
    inside = 2 / (ways * speeds.link) if ways else 0.0
    outside = 2 / (topology.chips * speeds.network) if topology.slices > 1 else 0.0
    return math.inf if inside + outside == 0 else 1 / (inside + outside)


def _ways(topology: SliceTopology, n: int) -> int:
    """Ways from one half of an axis to the other: two in a ring, one in a line."""
    if len(topology.dimensions) == 2:
        return 2 if n == 16 else 1
    return 2 if all(chips % 4 == 0 for chips in topology.dimensions) else 1
