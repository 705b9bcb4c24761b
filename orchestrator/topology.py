"""TPU slices by name: how many hosts, chips, devices and SparseCores ``v6e-16`` has.

A slice is what Google lends as a whole: chips on one interconnect, a few of them on every host. Its
name tells the generation and a size, which counts chips for v6e and TensorCores for v5p and 7x:

    name     chips  hosts  devices  SparseCores
    v5p-16       8      2        8           32      one device a chip, 4 SparseCores each
    v6e-16      16      4       16           32      one device a chip, 2 SparseCores each
    7x-16        8      2       16           32      two devices a chip, 2 SparseCores each

Sources, read in November 2026:

- chips, cores, SparseCores, HBM, shapes and hosts: Google Cloud's pages "TPU v5p", "TPU v6e" and
  "TPU7x (Ironwood)" below docs.cloud.google.com/tpu/docs, and "Plan TPUs in GKE" for node labels
  and machine types;
- what Ray calls things, and the shapes it takes: ``ray/_private/accelerators/tpu.py`` of Ray 2.60;
- devices of a chip, and the hosts' order: XLA's TPU compiler (libtpu 0.0.52), which
  ``tests/orchestrator/test_topology.py`` asks again.

Nothing here touches Ray or JAX.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from orchestrator.errors import ConfigError

__all__ = [
    "GENERATIONS",
    "Generation",
    "SliceTopology",
    "larger_topologies",
    "sizes_of",
    "slice_topology",
]

GIB = 2**30


@dataclass(frozen=True)
class Generation:
    """What is common to all slices of a generation of TPUs."""

    name: str
    """As in the name of a slice: ``v5p``, ``v6e`` or ``7x``."""
    counted_per_chip: int
    """By how much one chip raises the number in a slice's name."""
    devices_per_chip: int
    sparsecores_per_device: int
    hbm_gib_per_device: float
    ray: str
    """As Ray calls it."""
    compiler: str
    """As XLA's TPU compiler calls it."""
    gke: str
    """Value of the node label ``cloud.google.com/gke-tpu-accelerator``."""
    machine: str
    """Machine type, with a place for the chips of a host."""
    axes: tuple[tuple[int, ...], ...]
    """Chips that a shape of whole cubes may have along every axis; empty where shapes are flat."""


_TO_16, _TO_24 = tuple(range(4, 17, 4)), tuple(range(4, 25, 4))
_V5P_AXES = (_TO_16, _TO_16, _TO_24)
_7X_AXES = ((4, 8), (4, 8, 16), (4, 8, 16))

GENERATIONS: Mapping[str, Generation] = {
    "v5p": Generation(
        "v5p", 2, 1, 4, 95, "v5p", "v5p", "tpu-v5p-slice", "ct5p-hightpu-{}t", _V5P_AXES
    ),
    "v6e": Generation("v6e", 1, 1, 2, 32, "v6e", "v6e", "tpu-v6e-slice", "ct6e-standard-{}t", ()),
    "7x": Generation("7x", 2, 2, 2, 96, "v7x", "tpu7x", "tpu7x", "tpu7x-standard-{}t", _7X_AXES),
}
"""By name."""

_FLAT = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
"""All shapes of v6e."""
_BELOW_A_CUBE = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4))
"""Shapes of v5p and 7x that are smaller than a cube of 4 × 4 × 4 chips."""
_CHIPS_PER_HOST = 4
_MOST_CHIPS_OF_ONE_HOST = 8
"""A v6e slice of up to so many chips is one host."""
_NAME = re.compile(r"(?:tpu-?)?(?P<generation>v5p|v6e|v?7x)-(?P<size>\d+)")


@dataclass(frozen=True)
class SliceTopology:
    """One or several equal slices, as a run uses them.

    Example:
        >>> two = slice_topology("v6e-16", slices=2)
        >>> two.hosts, two.devices, two.sparsecores, two.shape
        (8, 32, 64, '4x4')
    """

    generation: Generation
    dimensions: tuple[int, ...]
    """Chips along every axis of one slice."""
    slices: int = 1

    @property
    def name(self) -> str:
        """Name of one slice, such as ``v6e-16``."""
        return f"{self.generation.name}-{self.chips * self.generation.counted_per_chip}"

    @property
    def described(self) -> str:
        """The name, with the number of slices if there are several."""
        return self.name if self.slices == 1 else f"{self.slices} × {self.name}"

    @property
    def shape(self) -> str:
        """Chips along every axis, as Google and Ray write it: ``4x4``."""
        return "x".join(str(chips) for chips in self.dimensions)

    @property
    def chips(self) -> int:
        """Chips of one slice."""
        return math.prod(self.dimensions)

    @property
    def chips_per_host(self) -> int:
        """Chips of a host: 4, but for v6e slices of one host."""
        one_host = len(self.dimensions) == 2 and self.chips <= _MOST_CHIPS_OF_ONE_HOST
        return self.chips if one_host else _CHIPS_PER_HOST

    @property
    def hosts_per_slice(self) -> int:
        """Hosts of one slice."""
        return self.chips // self.chips_per_host

    @property
    def hosts(self) -> int:
        """Hosts of all slices."""
        return self.hosts_per_slice * self.slices

    @property
    def devices_per_host(self) -> int:
        """JAX devices of a host."""
        return self.chips_per_host * self.generation.devices_per_chip

    @property
    def devices(self) -> int:
        """JAX devices of all slices."""
        return self.devices_per_host * self.hosts

    @property
    def sparsecores_per_device(self) -> int:
        """SparseCores of a JAX device."""
        return self.generation.sparsecores_per_device

    @property
    def sparsecores(self) -> int:
        """SparseCores of all slices: shards of every table."""
        return self.sparsecores_per_device * self.devices

    @property
    def mesh_shape(self) -> tuple[int]:
        """Shape of a run's mesh: it has one axis, over all devices, slice by slice."""
        return (self.devices,)

    @property
    def hbm_bytes_per_device(self) -> int:
        """High-bandwidth memory of a JAX device, in bytes."""
        return int(self.generation.hbm_gib_per_device * GIB)

    @property
    def compiler_name(self) -> str:
        """Name of one slice for XLA's TPU compiler, such as ``v6e:4x4``."""
        return f"{self.generation.compiler}:{self.shape}"

    @property
    def compiler_host_bounds(self) -> tuple[int, int, int]:
        """Chips of a host along every axis, for XLA's TPU compiler."""
        if self.hosts_per_slice > 1:
            return (2, 2, 1)
        x, y, *z = self.dimensions
        return (x, y, z[0] if z else 1)

    @property
    def machine_type(self) -> str:
        """Google's machine type of a host."""
        return self.generation.machine.format(self.chips_per_host)

    # What Ray calls things.

    @property
    def pod_type(self) -> str:
        """Ray's name of one slice: value of the label ``ray.io/tpu-pod-type``."""
        return f"{self.generation.ray}-{self.chips * self.generation.counted_per_chip}"

    @property
    def ray_resources(self) -> dict[str, float]:
        """Ray resources of one host."""
        return {"TPU": float(self.chips_per_host)}

    @property
    def ray_head_resource(self) -> str:
        """The Ray resource that only a slice's first host has."""
        return f"TPU-{self.pod_type}-head"

    def ray_labels(self, slice_name: str, worker: int) -> dict[str, str]:
        """Labels that Ray gives to a host of a slice.

        Args:
            slice_name: Name of this very slice.
            worker: Number of the host within the slice, in the order of the interconnect.
        """
        return {
            "ray.io/accelerator-type": f"TPU-{self.generation.ray.upper()}",
            "ray.io/tpu-slice-name": slice_name,
            "ray.io/tpu-worker-id": str(worker),
            "ray.io/tpu-topology": self.shape,
            "ray.io/tpu-pod-type": self.pod_type,
        }

    @property
    def gke_labels(self) -> dict[str, str]:
        """Labels of a GKE node with such a host."""
        return {
            "cloud.google.com/gke-tpu-accelerator": self.generation.gke,
            "cloud.google.com/gke-tpu-topology": self.shape,
        }


def slice_topology(name: str, slices: int = 1) -> SliceTopology:
    """What a slice of this name is made of.

    Args:
        name: Generation and size, such as ``v5p-8``, ``v6e-16`` or ``7x-16`` (also ``tpu7x-16``).
        slices: Number of such slices.

    Raises:
        ConfigError: There is no such generation, or no slice of this size; names the nearest.
    """
    if slices < 1:
        raise ConfigError(f"{slices} slices cannot be used: give at least 1")
    match = _NAME.fullmatch(name.strip().lower())
    if match is None:
        raise ConfigError(
            f"there is no TPU slice '{name}': write generation and size, such as v5p-8, v6e-16 or "
            "7x-16"
        )
    generation = GENERATIONS[match["generation"].replace("v7x", "7x")]
    size = int(match["size"])
    shapes = _shapes(generation)
    if size not in shapes:
        counted = "chips" if generation.counted_per_chip == 1 else "TensorCores, two of a chip"
        near = " and ".join(f"{generation.name}-{other}" for other in _nearest(size, shapes))
        raise ConfigError(
            f"there is no TPU slice {generation.name}-{size} (the number counts {counted}): the "
            f"nearest are {near}"
        )
    return SliceTopology(generation, shapes[size], slices)


def sizes_of(generation: str) -> tuple[int, ...]:
    """The numbers that names of a generation's slices can have, ascending."""
    return tuple(_shapes(GENERATIONS[generation]))


def larger_topologies(topology: SliceTopology) -> tuple[SliceTopology, ...]:
    """Slices of the same generation with more chips, ascending."""
    name = topology.generation.name
    size = topology.chips * topology.generation.counted_per_chip
    return tuple(slice_topology(f"{name}-{n}", topology.slices) for n in sizes_of(name) if n > size)


@cache
def _shapes(generation: Generation) -> dict[int, tuple[int, ...]]:
    """The most compact shape of every size that there is, by size, ascending.

    Google lends other shapes of the same size too, such as 4 × 4 × 16 chips beside 4 × 8 × 8; the
    most compact one has the most links across.
    """
    shapes: list[tuple[int, ...]] = list(_FLAT)
    if generation.axes:
        cubes = itertools.product(*generation.axes)
        shapes = [*_BELOW_A_CUBE, *(shape for shape in cubes if list(shape) == sorted(shape))]
    sized: dict[int, tuple[int, ...]] = {}
    for shape in sorted(shapes, key=lambda shape: (math.prod(shape), sum(shape))):
        sized.setdefault(math.prod(shape) * generation.counted_per_chip, shape)
    return sized


def _nearest(size: int, sizes: Mapping[int, object]) -> list[int]:
    """The next smaller and the next larger size, as far as there are any."""
    smaller = [other for other in sizes if other < size]
    larger = [other for other in sizes if other > size]
    return smaller[-1:] + larger[:1]
