"""What is asked about a node, and what is answered: plain values that cross processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["FolderFacts", "Holder", "NodeFacts", "Peer", "Questions"]


@dataclass(frozen=True)
class Questions:
    """What a node is to look at."""

    platform: str = "cpu"
    """``tpu`` or ``gpu``: find the processes that hold such chips."""
    program: str | None = None
    """``module:callable`` that must be found there."""
    folder: str | None = None
    """Folder that a run would write to; it is there where the driver is."""
    marker: str | None = None
    """Name of a file that the driver has put into it."""
    data: str | None = None
    """Path or address of the training data."""
    seconds: float = 5.0
    """Longest wait for a storage."""


@dataclass(frozen=True)
class FolderFacts:
    """How a folder, or the data, looks from a node."""

    path: str
    missing: bool = False
    """There is nothing at this path."""
    shared: bool = True
    """The driver's file is there too. Of a folder alone."""
    trouble: str | None = None
    """What else went wrong when it was written or read; None where it was not."""
    free_bytes: int | None = None
    """Room that is left. Of a folder alone."""
    files: int = 0
    """How many files the data has."""
    digest: str = ""
    """Of the names of the data's files."""


@dataclass(frozen=True)
class Holder:
    """A process that keeps a chip to itself."""

    pid: int
    """0 where it cannot be told."""
    told: str
    """Which process holds what, in words."""


@dataclass(frozen=True)
class NodeFacts:
    """What a node is like."""

    clock: float
    """Unix seconds at the moment of the answer."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of Python and of the packages that matter, by name; ``-`` for one that is not there."""
    code: str = ""
    """Digest of emberay's own source files."""
    program: str | None = None
    """Digest of the program's file; empty where it is not found, None where it was not asked."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that JAX, XLA and libtpu listen to. Values of proxies are left out."""
    open_files: int = 0
    """How many files a process may have open."""
    shm_bytes: int | None = None
    """Size of /dev/shm; None where there is none."""
    kernels: Mapping[str, str] = field(default_factory=dict)
    """C++ modules that cannot be loaded, each with the reason."""
    holders: tuple[Holder, ...] = ()
    """Other processes that hold chips of the platform that was asked for."""
    compiled_anew: str = ""
    """Why Python compiles JAX's modules in every process; empty where they are kept compiled."""
    closed_lock: str = ""
    """Why libtpu's lock file cannot be opened, though nobody holds it."""
    folder: FolderFacts | None = None
    data: FolderFacts | None = None


@dataclass(frozen=True)
class Peer:
    """A node that listens, as another one is told of it."""

    name: str
    address: str
    port: int
