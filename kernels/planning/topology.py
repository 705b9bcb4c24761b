"""How many hosts, devices and SparseCores a plan is made for."""

from __future__ import annotations

from dataclasses import dataclass

from kernels.errors import SpecError

__all__ = ["Topology"]


@dataclass(frozen=True)
class Topology:
    """The shape of a mesh.

    On a platform without SparseCores, ``sparsecores_per_device`` is the number of shards a device
    holds of every table; 1 is best there.

    Example:
        >>> Topology(hosts=4, devices_per_host=4, sparsecores_per_device=2).sparsecores
        32
    """

    hosts: int
    devices_per_host: int
    sparsecores_per_device: int = 1

    def __post_init__(self) -> None:
        for what in ("hosts", "devices_per_host", "sparsecores_per_device"):
            value = getattr(self, what)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise SpecError(f"topology: {what} is {value!r}; give a whole number of at least 1")

    @property
    def devices(self) -> int:
        """Devices of all hosts."""
        return self.hosts * self.devices_per_host

    @property
    def sparsecores(self) -> int:
        """SparseCores of all devices: the number of shards of every table."""
        return self.devices * self.sparsecores_per_device
