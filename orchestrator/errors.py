"""What can go wrong with a run, as its driver sees it.

    EmberayError (kernels.errors)
    ├── ConfigError          a key or value of the configuration cannot be used
    ├── RunFolderError       the run's folder is taken, not empty, or of another run
    ├── ClusterError         Ray cannot be started or reached
    ├── CompilerError        the TPU compiler took too long, or ended its process
    ├── HostError            an exception that left a host, as text
    ├── StorageUnavailable   storage answers with errors, and goes on doing so
    └── RunFailed            the run cannot go on; it says why and what the hosts said last

Errors that the user's input causes on a host (``DataError``, ``ProgramError``, ``SpecError``, …;
see ``workers.errors`` and ``kernels.errors``) reach the caller as they are.
"""

from __future__ import annotations

from collections.abc import Mapping

from kernels.errors import EmberayError, SpecError
from workers.errors import DataError, ProgramError

__all__ = [
    "BAD_INPUT",
    "ClusterError",
    "CompilerError",
    "ConfigError",
    "HostError",
    "RunFailed",
    "RunFolderError",
    "StorageUnavailable",
]


class ConfigError(EmberayError, ValueError):
    """A key or value of the configuration cannot be used; the message names it and the fix."""


class RunFolderError(EmberayError):
    """The folder of the run is in use, holds something else, or does not fit the configuration."""


class ClusterError(EmberayError):
    """Ray could not be started or reached."""


class CompilerError(EmberayError):
    """The TPU compiler gave no answer: it took too long, or ended its process."""


class HostError(EmberayError):
    """An exception that is not emberay's own and left a host's command, carried as text.

    It crosses the process boundary as text because the class of the original may not be importable
    in the driver, which must not load what a host loads.

    Attributes:
        type_name: Class of the original, for example ``jaxlib._jax.JaxRuntimeError``.
        message: What the original said.
        transient: Whether trying again may help: true for failures of the run time, the network or
            the system, false for mistakes in code.
    """

    def __init__(self, type_name: str, message: str, transient: bool) -> None:
        self.type_name = type_name
        self.message = message
        self.transient = transient
        super().__init__(f"{type_name}: {message}")

    def __reduce__(self) -> tuple[type[HostError], tuple[str, str, bool]]:
        return type(self), (self.type_name, self.message, self.transient)

    @staticmethod
    def of(error: BaseException) -> HostError:
        """Describe any exception.

        Failures of the run time (``RuntimeError``, ``OSError``, ``MemoryError`` and the like) count
        as transient; a ``TypeError`` or ``KeyError`` would only come again.
        """
        kind = type(error)
        module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
        # Python's own kinds of RuntimeError (endless recursion, say) are mistakes in the code.
        mistake = module == "" and isinstance(error, RuntimeError) and kind is not RuntimeError
        transient = isinstance(error, RuntimeError | OSError | MemoryError) and not mistake
        return HostError(f"{module}{kind.__qualname__}", str(error), transient)


class StorageUnavailable(EmberayError):
    """The storage of the run's folder answers with errors, and was given time to cease.

    Attributes:
        path: What it was asked about.
        errno: Number of its answer, as in the module ``errno``; 0 if it gave none.
    """

    def __init__(self, message: str, path: str = "", errno: int = 0) -> None:
        self.path = path
        self.errno = errno
        super().__init__(message)

    def __reduce__(self) -> tuple[type[StorageUnavailable], tuple[str, str, int]]:
        return type(self), (str(self), self.path, self.errno)


class RunFailed(EmberayError):
    """The run gave up.

    Attributes:
        cause: Why, in one sentence or two.
        last_words: By rank, what was last known of each host.
    """

    def __init__(self, cause: str, last_words: Mapping[int, str] | None = None) -> None:
        self.cause = cause
        self.last_words = dict(last_words or {})
        lines = [cause, *(f"  host {rank}: {said}" for rank, said in self.last_words.items())]
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[type[RunFailed], tuple[str, dict[int, str]]]:
        return type(self), (self.cause, self.last_words)


BAD_INPUT = (ConfigError, RunFolderError, SpecError, DataError, ProgramError)
"""Errors that changing the input mends: the command line exits with 2 for these, 1 for others."""
