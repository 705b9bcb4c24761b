"""Whether another process has this host's TPU chips, asked before JAX reaches for them.

Only one process can have them. What libtpu (0.0.52) says otherwise is no help: it tells no process,
and where the lock alone is taken it advises to remove a file. What it really does:

- it opens ``/tmp/libtpu_lockfile``, makes it if it is missing, and takes a POSIX lock on it, which
  ends with the process. So a file that a dead process left is harmless where it can be opened;
- then it opens the chips themselves, ``/dev/accel<n>`` or ``/dev/vfio/<n>``. A process whose lock
  file was removed still has those.

A process that was just killed may hold its chips for some seconds more: it is waited for.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import re
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from workers.errors import ChipsTaken

__all__ = ["CHIPS_SECONDS", "Holder", "Machine", "chip_holders", "unusable_lock", "wait_for_chips"]

CHIPS_SECONDS = 60.0
"""Longest wait for another process to let go of the chips."""
_LOOK_SECONDS = 0.5
_LONGEST_COMMAND = 120
_FLOCK = "hhqqi"
"""``struct flock`` on Linux with 64-bit offsets: type, whence, start, length, process."""
_CHIP = re.compile(r"accel\d+|vfio/\d+")
"""Names of chips below ``/dev``; ``/dev/vfio/vfio`` is nobody's."""
_WHOLE_HOST = ("", "2,2,1")
"""Bounds of the chips of a process with which libtpu asks for the lock."""


@dataclass(frozen=True)
class Machine:
    """Where things are on a machine."""

    lock: Path = Path("/tmp/libtpu_lockfile")
    devices: Path = Path("/dev")
    processes: Path = Path("/proc")


@dataclass(frozen=True)
class Holder:
    """A process that has chips, or libtpu's lock."""

    pid: int
    """0 for one that cannot be seen from here: of another container."""
    command: str
    user: str
    holds: tuple[str, ...]
    """Paths of chips and of the lock."""

    def __str__(self) -> str:
        what = ", ".join(self.holds)
        if self.pid == 0:
            return f"a process of another container holds {what}"
        return f"process {self.pid} ({self.command}, of user {self.user}) holds {what}"


def chip_holders(machine: Machine | None = None) -> tuple[Holder, ...]:
    """Other processes that have chips of this machine, or libtpu's lock, by process.

    Processes of other users can only be seen by root; those of other containers never.
    """
    machine = machine or Machine()
    held: dict[int, list[str]] = {}
    for pid in _processes(machine):
        for path in _open_chips(machine, pid):
            held.setdefault(pid, []).append(path)
    if _asks_for_lock(os.environ):
        pid = _lock_holder(machine.lock)
        if pid is not None:
            held.setdefault(pid, []).append(str(machine.lock))
    return tuple(
        Holder(pid, _command(machine, pid), _user(machine, pid), tuple(sorted(set(paths))))
        for pid, paths in sorted(held.items())
    )


def unusable_lock(machine: Machine | None = None) -> str:
    """Why libtpu cannot open its lock file, if it cannot, though nobody holds it; else empty.

    A file that can be opened is harmless, whoever left it.
    """
    path = (machine or Machine()).lock
    if not _asks_for_lock(os.environ):
        return ""
    try:
        os.close(os.open(path, os.O_RDWR))
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"{path} of user {_owner(path)} cannot be opened ({error.strerror})"
    return ""


def wait_for_chips(
    rank: int,
    seconds: float = CHIPS_SECONDS,
    *,
    machine: Machine | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Wait until no other process has this machine's chips.

    A lock file that nobody holds and libtpu could not open is removed, where that is allowed.

    Args:
        rank: This host's number, for messages.
        seconds: Longest time to wait.
        machine: Where to look.
        say: Told what is waited for, and what was removed.

    Raises:
        ChipsTaken: Another process has them still, or the lock file cannot be used or removed; the
            message names process, command and user, and what to do.
    """
    machine = machine or Machine()
    deadline = time.monotonic() + seconds
    told: tuple[Holder, ...] = ()
    while holders := chip_holders(machine):
        if time.monotonic() >= deadline:
            raise ChipsTaken(_taken(rank, holders, seconds))
        if holders != told:
            told = holders
            say(f"host {rank} waits for its TPU chips: {'; '.join(map(str, holders))}")
        time.sleep(min(_LOOK_SECONDS, seconds))
    trouble = unusable_lock(machine)
    if not trouble:
        return
    try:
        machine.lock.unlink()
    except OSError:
        raise ChipsTaken(
            f"host {rank} cannot have its TPU chips: {trouble}, and no process that can be seen "
            f"holds it; make sure that none uses the chips, then: sudo rm -r {machine.lock}"
        ) from None
    say(f"{trouble}, and nobody held it: it was removed")


def _taken(rank: int, holders: tuple[Holder, ...], seconds: float) -> str:
    pids = " ".join(str(holder.pid) for holder in holders if holder.pid)
    remedy = (
        f"end what is no longer needed (kill {pids}, and kill -9 where that does not help)"
        if pids
        else "end the other container, or whatever shares /tmp with it"
    )
    return (
        f"host {rank} cannot have its TPU chips: {'; '.join(map(str, holders))}, still after "
        f"{seconds:g} s; {remedy}, or let the run use other machines"
    )


def _asks_for_lock(environment: Mapping[str, str]) -> bool:
    """Whether libtpu takes the lock at all, by the variables that it looks at."""
    if environment.get("TPU_LOAD_LIBRARY") == "1":
        return False
    if environment.get("ALLOW_MULTIPLE_LIBTPU_LOAD", "").lower() not in ("", "0", "false"):
        return False
    old = environment.get("TPU_CHIPS_PER_HOST_BOUNDS", "")
    return (environment.get("TPU_CHIPS_PER_PROCESS_BOUNDS") or old) in _WHOLE_HOST


def _lock_holder(path: Path) -> int | None:
    """The process that holds a POSIX lock on a file; None if it is free or cannot be opened.

    Where this process holds one itself, this would end it: it is asked before there can be one.
    """
    try:
        file = os.open(path, os.O_RDWR)
    except OSError:
        return None
    try:
        wanted = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, *_, pid = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, wanted))
    finally:
        os.close(file)
    return None if kind == fcntl.F_UNLCK else max(pid, 0)


def _processes(machine: Machine) -> Iterator[int]:
    for entry in machine.processes.iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            yield int(entry.name)


def _open_chips(machine: Machine, pid: int) -> Iterator[str]:
    """Chips that a process has open; none of a process that may not be looked into."""
    try:
        files = list((machine.processes / str(pid) / "fd").iterdir())
    except OSError:
        return
    for file in files:
        try:
            target = file.readlink()
        except OSError:  # closed meanwhile
            continue
        if target.is_relative_to(machine.devices):
            name = str(target.relative_to(machine.devices))
            if _CHIP.fullmatch(name):
                yield str(target)


def _command(machine: Machine, pid: int) -> str:
    try:
        words = (machine.processes / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return "gone"
    command = b" ".join(word for word in words if word).decode(errors="replace")
    shown = command or "its command cannot be seen"
    return shown if len(shown) <= _LONGEST_COMMAND else f"{shown[:_LONGEST_COMMAND]}…"


def _user(machine: Machine, pid: int) -> str:
    return _owner(machine.processes / str(pid))


def _owner(path: Path) -> str:
    try:
        number = path.lstat().st_uid
    except OSError:
        return "unknown"
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
