"""Steps that a host compiled, kept for the process that takes its place after a failure.

JAX's own cache (``workers.compilation``) saves the compiler's time, but its key is the lowered
program, so the step is traced and lowered again first. And on CPUs that span several processes it
is of use to the first of them alone: only that one writes, and the key is another on each.

Here a host keeps the executable itself, under a key that is known before anything is traced: the
run's session, the plan, and the host's place. That holds as long as the program does not change,
so a session is no longer than the life of one driver.

What is kept is native code, and loading it is as good as running it, in whatever format it lies.
So each file begins with an authentication code over its name and content (HMAC-SHA256). Its key is
the run's session, which the driver makes and sends to its hosts, and which is in no file: what
others put into the folder is never looked into.

Two things are wrong with XLA's executables for CPUs. One that was itself loaded from JAX's cache
can be stored again, but not run any more ("Function … not found"): it is not kept here, as that
cache has it. And such a fault shows only when the step is run. So what was loaded is taken out of
the folder before it is run, and put back when it has run: it can do harm once at most.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import pickle
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.experimental import serialize_executable

from kernels.backends.cpu_calls import native_module
from workers.compilation import steps_folder
from workers.phases import Phases
from workers.protocol import Assignment

__all__ = ["CompiledSteps"]

SEEN_AFTER = 2
"""Steps after which a host has seen what came of the first: it looks one step late."""

_CODE_BYTES = hashlib.sha256().digest_size

MOST_SESSIONS = 8
"""Sessions whose steps are kept on a machine; those written to longest ago go first."""


class CompiledSteps:
    """Loads or compiles steps, and keeps what it compiles.

    Args:
        folder: Where steps of all sessions are; None keeps nothing.
        session: Changes whenever the program may have changed, and is known to nobody else; empty
            keeps nothing.
        place: What else the steps depend on: the host's place, and how many there are.
        phases: Told when a step is being compiled or loaded.

    Example:
        >>> steps = CompiledSteps(folder, "4f3a", "host-0-of-2", phases)        # doctest: +SKIP
        >>> step = steps.prepared("train-97b0", jax.jit(lambda x: x + 1))       # doctest: +SKIP
        >>> step(1.0)                                                           # doctest: +SKIP
    """

    def __init__(self, folder: Path | None, session: str, place: str, phases: Phases) -> None:
        kept = folder is not None and session
        # What the folder is called tells nothing of the session.
        named = hashlib.sha256(f"folder of {session}".encode()).hexdigest()[:16]
        self._folder = folder / named if folder is not None and kept else None
        self._key = session.encode()
        self._place = place
        self._phases = phases

    @classmethod
    def of(cls, session: str, assignment: Assignment, phases: Phases) -> CompiledSteps:
        """Those of a host, in the user's cache folder."""
        place = f"host-{assignment.rank}-of-{assignment.hosts}"
        return cls(steps_folder(), session, place, phases)

    def prepared(self, name: str, step: Any) -> Callable[..., Any]:
        """A step that is compiled when it is first called, or was loaded by then.

        Loading begins at once, on a thread of its own.

        Args:
            name: Tells the step from all others of the session.
            step: From ``jax.jit``, over all devices; always called with arguments of the same
                shapes and layouts.
        """
        file = None if self._folder is None else self._folder / f"{name}-{self._place}"
        return _Step(step, file, self._key, self._phases)


class _Step:
    """One step."""

    def __init__(self, step: Any, file: Path | None, key: bytes, phases: Phases) -> None:
        self._step = step
        self._file = file
        self._key = key
        self._phases = phases
        self._ready: Callable[..., Any] | None = None
        self._loaded_step: Callable[..., Any] | None = None
        self._untried: bytes | None = None
        self._runs = 0
        self._loading: threading.Thread | None = None
        if file is not None and file.exists():
            self._loading = threading.Thread(target=self._load, args=(file,), daemon=True)
            self._loading.start()

    def __call__(self, *arguments: Any) -> Any:
        if self._ready is None:
            with self._phases.within("compiling"):
                self._ready = self._loaded() or self._compile(arguments)
            if self._untried is not None and self._file is not None:
                self._file.unlink(missing_ok=True)
        elif self._untried is not None and self._runs >= SEEN_AFTER:
            content, self._untried = self._untried, None
            self._keep(lambda: content)
        self._runs += 1
        return self._ready(*arguments)

    def _loaded(self) -> Callable[..., Any] | None:
        if self._loading is not None:
            self._loading.join()
        return self._loaded_step

    def _load(self, file: Path) -> None:
        try:
            content = _authentic(self._key, file)
            _register_native_calls()
            self._loaded_step = serialize_executable.deserialize_and_load(*pickle.loads(content))
            self._untried = content
        except Exception as error:
            # Whatever is wrong with it, the step can be compiled.
            print(f"the compiled step '{file}' is of no use: {error}", flush=True)

    def _compile(self, arguments: tuple[Any, ...]) -> Callable[..., Any]:
        hits = _cache_hits[0]
        compiled = self._step.lower(*arguments).compile()
        if _cache_hits[0] == hits:
            self._keep(lambda: pickle.dumps(serialize_executable.serialize(compiled)))
        return compiled

    def _keep(self, content: Callable[[], bytes]) -> None:
        if self._file is None:
            return
        try:
            _write(self._file, self._key, content())
        except Exception as error:
            # Not every kind of device or program can do it, and the disk may be full.
            print(f"the compiled step is not kept as '{self._file}': {error}", flush=True)


_cache_hits = [0]


def _count_hit(event: str, **_: Any) -> None:
    _cache_hits[0] += event == "/jax/compilation_cache/cache_hits"


jax.monitoring.register_event_listener(_count_hit)


def _register_native_calls() -> None:
    """Make XLA know the kernels' C++ code, as tracing a step would have done."""
    try:
        native_module()
    except ImportError:  # not built: the step does not call it
        return


def _code(key: bytes, file: Path, content: bytes) -> bytes:
    """The authentication code of a file: of its name too, so that none is taken for another."""
    return hmac.digest(key, file.name.encode() + b"\0" + content, "sha256")


def _authentic(key: bytes, file: Path) -> bytes:
    """The content of a file that a host of this session wrote.

    Raises:
        ValueError: It was written by somebody else, or is damaged.
    """
    whole = file.read_bytes()
    code, content = whole[:_CODE_BYTES], whole[_CODE_BYTES:]
    if not hmac.compare_digest(code, _code(key, file, content)):
        raise ValueError("it was not written by a host of this run, or is damaged")
    return content


def _write(file: Path, key: bytes, content: bytes) -> None:
    if not file.parent.exists():
        _make_room(file.parent.parent)
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    draft.write_bytes(_code(key, file, content) + content)
    draft.replace(file)


def _make_room(folder: Path) -> None:
    """Remove the oldest sessions, so that there may be one more."""
    sessions = [] if not folder.exists() else sorted(folder.iterdir(), key=_written)
    for session in sessions[: max(0, len(sessions) - MOST_SESSIONS + 1)]:
        shutil.rmtree(session, ignore_errors=True)


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
