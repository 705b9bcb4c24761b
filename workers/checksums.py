"""Checksums of a checkpoint's files, so that damage is found before anything is restored from it.

    checksums.json   {"algorithm": "crc32", "files": {"tables/d/1f…": [bytes, crc32], …},
                      "crc32": that of the files' entry itself}

CRC-32 is that of ISO 3309 (``zlib.crc32``): it finds every change of up to 32 bits in a row, and
misses one in 2^32 of all others. It guards against broken disks and half-written files, not against
people.
"""

from __future__ import annotations

import heapq
import json
import os
import re
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from workers.errors import CheckpointError

__all__ = [
    "CHECKSUMS",
    "join_parts",
    "looks_whole",
    "verify_files",
    "write_checksums",
    "write_part",
]

CHECKSUMS = "checksums.json"
"""Name of the file with the checksums of all others in its folder."""

BLOCK_BYTES = 4 << 20
"""Bytes read at once by each thread."""

LOOKS_AGAIN_SECONDS = 0.2, 0.8
"""Pauses before a file that is to be restored counts as missing: network storage may hide one for a
moment, and a checkpoint with a missing file is set aside."""


def write_checksums(folder: Path) -> None:
    """Write down the size and checksum of every file in a folder and below it.

    Reads every file once, on as many threads as there are processors (8 at most). The file appears
    whole or not at all.
    """
    write_part(folder, 0, 1)
    join_parts(folder, 1)


def write_part(folder: Path, host: int, hosts: int) -> None:
    """Write down sizes and checksums of what one host has written, for ``join_parts``.

    Other hosts' files are not even listed: each would list those of all.

    Args:
        folder: The folder, which all hosts see.
        host: Number of the host.
        hosts: Number of hosts.
    """
    own = _names(folder, lambda writer: writer % hosts == host)
    names = sorted(name for name in own if _writer(name) % hosts == host)
    with ThreadPoolExecutor(_threads()) as pool:
        sums = list(pool.map(lambda name: _size_and_sum(folder / name), names))
    _write_json(_part(folder, host), dict(zip(names, sums, strict=True)))


def join_parts(folder: Path, hosts: int) -> None:
    """Make ``checksums.json`` of the parts of all hosts, which are removed.

    Raises:
        CheckpointError: A file is in no part.
    """
    parts = [_part(folder, host) for host in range(hosts)]
    files: dict[str, Any] = {}
    for part in parts:
        files |= json.loads(part.read_bytes())
    if missing := sorted(set(_names(folder)) - files.keys()):
        raise CheckpointError(
            f"{_where(folder)}: host {_writer(missing[0])} did not see '{missing[0]}', which it "
            "has written; the folder must be on storage that all hosts share"
        )
    files = dict(sorted(files.items()))
    content = {"algorithm": "crc32", "files": files, "crc32": _sum_of_entry(files)}
    _write_json(folder / CHECKSUMS, content)
    for part in parts:
        part.unlink()


def verify_files(folder: Path, share: int = 0, shares: int = 1) -> bool:
    """Compare files with their checksums; several hosts may take a share of the files each.

    Args:
        folder: A folder with ``checksums.json``.
        share: Which share of the files to look at, from 0.
        shares: Number of shares, of about equal bytes.

    Returns:
        False if the folder has no checksums, as it was written without them; nothing was compared.

    Raises:
        CheckpointError: A file is missing, or has another size or content than was written; it is
            named. Likewise if the checksums themselves are damaged.
    """
    files = _read_checksums(folder)
    if files is None:
        return False
    own = _share(files, share, shares)
    for name in own:
        _check_size(folder, name, files[name][0], LOOKS_AGAIN_SECONDS)
    with ThreadPoolExecutor(_threads()) as pool:
        found = pool.map(lambda name: _size_and_sum(folder / name)[1], own)
        for name, checksum in zip(own, found, strict=True):
            if checksum != files[name][1]:
                raise CheckpointError(
                    f"{_where(folder)}: the content of '{name}' has changed since it was "
                    f"written (CRC-32 is {checksum:08x}, was {files[name][1]:08x}); use another "
                    "checkpoint, or bring the file back from a copy"
                )
    return True


def looks_whole(folder: Path) -> bool:
    """Whether a checkpoint has checksums, and all its files with the right sizes; reads no more."""
    try:
        files = _read_checksums(folder)
        for name, (size, _) in (files or {}).items():
            _check_size(folder, name, size)
    except CheckpointError:
        return False
    return files is not None


def _names(folder: Path, wanted: Callable[[int], bool] = lambda writer: True) -> Iterator[str]:
    """Files below a folder, but for checksums; folders of hosts not wanted are not entered."""
    for place, folders, files in folder.walk():
        below = "" if place == folder else f"{place.relative_to(folder).as_posix()}/"
        named = [(name, _WRITER.search(f"/{name}/")) for name in folders]
        folders[:] = [name for name, found in named if not found or wanted(int(found.group(1)))]
        for name in files:
            if below or CHECKSUMS not in name:
                yield below + name


_WRITER = re.compile(r"/ocdbt\.process_(\d+)/")


def _writer(name: str) -> int:
    """The host that has written a file: Orbax gives each a folder, and the rest is the first's."""
    found = _WRITER.search(name)
    return int(found.group(1)) if found else 0


def _part(folder: Path, host: int) -> Path:
    return folder / f".{CHECKSUMS}.{host}"


def _write_json(file: Path, content: Any) -> None:
    draft = file.with_name(f".{file.name}.new")
    with draft.open("w", encoding="utf-8") as out:
        json.dump(content, out, indent=0)
        out.flush()
        os.fsync(out.fileno())
    draft.replace(file)


def _where(folder: Path) -> str:
    return f"checkpoint {folder.name} in '{folder.parent}'"


def _threads() -> int:
    return min(8, os.cpu_count() or 1)


def _size_and_sum(file: Path) -> tuple[int, int]:
    size, checksum = 0, 0
    block = memoryview(bytearray(BLOCK_BYTES))
    with file.open("rb", buffering=0) as source:
        while count := source.readinto(block):
            checksum = zlib.crc32(block[:count], checksum)
            size += count
    return size, checksum


def _sum_of_entry(files: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(files, sort_keys=True).encode())


def _read_checksums(folder: Path) -> dict[str, tuple[int, int]] | None:
    try:
        content = json.loads((folder / CHECKSUMS).read_bytes())
        files = content["files"]
        if content["crc32"] == _sum_of_entry(files):
            return {name: (size, checksum) for name, (size, checksum) in files.items()}
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        pass
    raise CheckpointError(
        f"{_where(folder)}: '{CHECKSUMS}' is damaged; use another checkpoint, or remove that "
        "file to restore this one without checking it"
    )


def _check_size(folder: Path, name: str, size: int, pauses: Sequence[float] = ()) -> None:
    for pause in (*pauses, None):
        try:
            found = (folder / name).stat().st_size
            break
        except FileNotFoundError:
            if pause is None:
                raise CheckpointError(
                    f"{_where(folder)}: '{name}' is missing; use another checkpoint, or bring the "
                    "file back from a copy"
                ) from None
            time.sleep(pause)
    if found != size:
        raise CheckpointError(
            f"{_where(folder)}: '{name}' has {found} bytes, but {size} were written; use "
            "another checkpoint, or bring the file back from a copy"
        )


def _share(files: Mapping[str, tuple[int, int]], share: int, shares: int) -> list[str]:
    """One share of the files: the largest first, each to whom has least so far."""
    loads = [(0, taker) for taker in range(shares)]
    own = []
    for name in sorted(files, key=lambda name: (-files[name][0], name)):
        load, taker = loads[0]
        heapq.heapreplace(loads, (load + files[name][0] + 1, taker))
        if taker == share:
            own.append(name)
    return own
