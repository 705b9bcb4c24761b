"""Processes side by side, each in a session and with a log of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Ended", "Processes"]

_LAST_CHARACTERS = 600
_KILL_SECONDS = 10.0


@dataclass(frozen=True)
class Ended:
    """A process that has ended.

    Attributes:
        name: The name it was started under.
        code: Its exit code; minus the number of the signal that ended it.
        seconds: Wall seconds it took.
        stopped: Why it was told to leave; None if it was not.
        last_words: The end of what it printed.
    """

    name: str
    code: int
    seconds: float
    stopped: str | None
    last_words: str


@dataclass
class _Running:
    process: subprocess.Popen[bytes]
    log: Path
    started: float
    deadline: float | None
    """When it is told to leave; once it was, when it is killed."""
    stopped: str | None = None
    killed: bool = False


class Processes:
    """Starts processes, tells of their ends, and leaves none behind.

    A process that is told to leave gets SIGTERM, and SIGKILL if it is still there after ``grace``.
    Ctrl-C in the terminal does not reach it.

    Args:
        grace: Seconds.
    """

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._running: dict[str, _Running] = {}

    @property
    def names(self) -> list[str]:
        """Of those that run, in the order they were started."""
        return list(self._running)

    def start(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        timeout: float | None = None,
    ) -> None:
        """Start one.

        Args:
            name: Not that of a running one.
            command: Its words.
            environment: All of its environment.
            log: File that its output is added to.
            timeout: Seconds until it is told to leave; None lets it take any time.

        Raises:
            OSError: It cannot be started.
        """
        with log.open("ab") as output:
            process = subprocess.Popen(
                list(command),
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        now = time.monotonic()
        deadline = None if timeout is None else now + timeout
        self._running[name] = _Running(process, log, now, deadline)

    def poll(self) -> list[Ended]:
        """Those that have ended since the last call; deadlines that have passed are kept here."""
        ended = []
        for name, one in list(self._running.items()):
            code = one.process.poll()
            now = time.monotonic()
            if code is not None:
                del self._running[name]
                self._signal(one, signal.SIGKILL)  # what it may have left in its session
                said = _last_words(one.log)
                ended.append(Ended(name, code, now - one.started, one.stopped, said))
            elif one.deadline is not None and now >= one.deadline:
                if one.stopped is None:
                    self.stop(name, "it took longer than trial_timeout")
                elif not one.killed:
                    one.killed = True
                    self._signal(one, signal.SIGKILL)
        return ended

    def stop(self, name: str, reason: str) -> None:
        """Tell one to save and leave; nothing, if it was told before."""
        one = self._running[name]
        if one.stopped is None:
            one.stopped = reason
            one.deadline = time.monotonic() + self._grace
            with suppress(ProcessLookupError):
                one.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End all at once, and wait until they are gone."""
        for one in self._running.values():
            self._signal(one, signal.SIGKILL)
        for one in self._running.values():
            with suppress(subprocess.TimeoutExpired):
                one.process.wait(_KILL_SECONDS)
        self._running.clear()

    @staticmethod
    def _signal(one: _Running, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(one.process.pid, number)


def _last_words(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LAST_CHARACTERS))
        return file.read().decode(errors="replace").strip()
