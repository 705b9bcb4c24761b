"""Which files a dataset has: folders, hive partitions, globs, here or in an object store.

    logs                          a folder, with a folder per split (train, test) or without
    logs/part-0.parquet           one file
    logs/day=*/part-*.parquet     a glob: `*`, `?`, `[…]` within a name, `**` across folders
    logs/{split}/*.parquet        a glob per split
    s3://bucket/logs              any of these at an address that pyarrow.fs knows: s3, gs, file

Folders named ``key=value`` below the data are hive partitions: ``key`` becomes a column.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs

from workers.errors import DataError

__all__ = [
    "DataFile",
    "absolute_data",
    "files_of",
    "filesystem_of",
    "is_arrow_file",
    "kind_of",
    "names_below",
    "partition_types",
    "reading",
]

ARROW_ENDINGS = (".arrow", ".feather", ".ipc")
ENDINGS = (".parquet", *ARROW_ENDINGS)
"""What files in a folder end with to count as data."""

_NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"
_SPLIT = "{split}"
_GCS_RETRY_SECONDS = 60
_REMOTE_TROUBLE = ("AWS Error", "google::cloud", "CURL error", "curlCode")


@dataclass(frozen=True)
class DataFile:
    """One file of a split.

    Attributes:
        file: Path or address, as errors give it and ``filesystem_of`` takes it.
        name: The same below the data; ``.`` where the data is this file.
        partition: Keys and values of the hive partition it lies in, as text; None is null.
    """

    file: str
    name: str
    partition: tuple[tuple[str, str | None], ...] = ()


def absolute_data(data: str) -> str:
    """``data`` with a path of this machine made absolute: other processes begin elsewhere."""
    if "://" in data:
        return data
    path = Path(data)
    known = path.exists() or _SPLIT in data or _is_glob(data)
    return str(path.absolute()) if known else data


def is_arrow_file(file: str) -> bool:
    """Whether a file holds Arrow's IPC format, by its name; it is Parquet otherwise."""
    return _parted(file)[0].endswith(ARROW_ENDINGS)


def filesystem_of(file: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """The filesystem of a path or address, and the path within it.

    Raises:
        DataError: The kind of address is not known.
    """
    address, options = _parted(file)
    scheme, colon, rest = address.rpartition("://")
    if not colon or scheme == "file":
        return _local(), rest
    bucket, _, path = rest.partition("/")
    store = _store(scheme, bucket, options[1:])
    # Before an "@" stand credentials, or the word "anonymous".
    return store, f"{bucket.rpartition('@')[2]}/{path}".rstrip("/")


def files_of(data: str, split: str) -> tuple[str, list[DataFile]]:
    """The files of a split, in the order of their names, folder by folder.

    Names that begin with ``_`` or a dot are passed over, as writers hide what is not finished so.

    Returns:
        The data as errors name it, and its files: none where the data is there but not the split.

    Raises:
        DataError: There is no such data, or it has a ``test`` folder and none to train on.
    """
    address, options = _parted(data)
    address = address.rstrip("/") or address
    if "://" not in address and _is_glob(address):
        address = str(Path(address).absolute())
    if _SPLIT in address or (_is_glob(address) and not kind_of(address + options)):
        if _SPLIT not in address and split != "train":
            return address, []
        address = address.replace(_SPLIT, split)
        fixed = "/".join(_fixed_part(address))
        if _is_glob(address):
            found = names_below(fixed + options) if kind_of(fixed + options) == "folder" else []
            pattern = re.compile(_expression(address[len(fixed) :].lstrip("/")))
            return fixed, _data_files(fixed, options, [n for n in found if pattern.fullmatch(n)])
    kind = kind_of(address + options)
    if kind is None:
        if _SPLIT in data:
            return address, []
        raise DataError(f"data '{data}' does not exist")
    if kind == "file":
        only = [DataFile(address + options, ".")] if split == "train" or _SPLIT in data else []
        return address, only
    names = [name for name in names_below(address + options) if name.endswith(ENDINGS)]
    if _SPLIT in data:
        return address, _data_files(address, options, names)
    splits = {s for s in ("train", "test") if kind_of(f"{address}/{s}{options}") == "folder"}
    if splits == {"test"}:
        raise DataError(
            f"data '{data}' has a folder 'test' but none named 'train'; rename the one to train on"
        )
    if splits:
        names = [name for name in names if name.startswith(f"{split}/")]
    elif split != "train":
        names = []
    return address, _data_files(address, options, names)


def partition_types(files: Sequence[DataFile]) -> dict[str, pa.DataType]:
    """The types of the partition columns: int64 where every value is a whole number, else string.

    Raises:
        DataError: Files lie in partitions of different keys.
    """
    for file in files:
        ours, theirs = ([key for key, _ in f.partition] for f in (files[0], file))
        if ours != theirs:
            raise DataError(
                f"file '{file.file}' lies in partitions {theirs}, but '{files[0].file}' in {ours}; "
                "give all files the same levels of key=value folders"
            )
    values: dict[str, list[str]] = {}
    for file in files:
        for key, value in file.partition:
            values.setdefault(key, []).extend([] if value is None else [value])
    return {
        key: pa.int64() if texts and all(map(_is_whole, texts)) else pa.string()
        for key, texts in values.items()
    }


@contextmanager
def reading(what: str, kind: str = "Parquet") -> Iterator[None]:
    """Turn what content or absence of a file raise into DataError.

    An error of the storage itself (it has an error number, or is the object store's) is let
    through: it may pass.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{what} is missing: {error}") from error
    except (OSError, pa.ArrowException) as error:
        if isinstance(error, OSError) and (
            error.errno is not None or any(word in str(error) for word in _REMOTE_TROUBLE)
        ):
            raise
        raise DataError(f"{what} cannot be read as {kind}: {error}") from error


@lru_cache
def _local() -> pyarrow.fs.FileSystem:
    return pyarrow.fs.LocalFileSystem()


@lru_cache
def _store(scheme: str, bucket: str, options: str) -> pyarrow.fs.FileSystem:
    if scheme in ("gs", "gcs") and "retry_limit_seconds" not in options:
        # By itself the client tries for 15 minutes.
        retries = f"retry_limit_seconds={_GCS_RETRY_SECONDS}"
        options = f"{options}&{retries}" if options else retries
    uri = f"{scheme}://{bucket}/" + (f"?{options}" if options else "")
    try:
        return pyarrow.fs.FileSystem.from_uri(uri)[0]
    except (pa.ArrowException, ValueError) as error:
        raise DataError(
            f"data at '{scheme}://{bucket}' cannot be opened: {error}; addresses begin with s3://, "
            "gs:// or file://"
        ) from error


def _parted(data: str) -> tuple[str, str]:
    """The address, and its options with their question mark."""
    options = re.search(r"\?[a-z_]+=[^/]*$", data) if "://" in data else None
    return (data[: options.start()], options.group()) if options else (data, "")


def _is_glob(text: str) -> bool:
    return re.search(r"[*?\[]", text) is not None


def kind_of(address: str) -> str | None:
    """``file``, ``folder``, or None where there is nothing."""
    filesystem, path = filesystem_of(address)
    found = filesystem.get_file_info(path).type
    names = {pyarrow.fs.FileType.File: "file", pyarrow.fs.FileType.Directory: "folder"}
    return names.get(found)


def names_below(folder: str) -> list[str]:
    """Names of the files below a folder that nobody hides, in order."""
    filesystem, base = filesystem_of(folder)
    selector = pyarrow.fs.FileSelector(base, recursive=True)
    found = [
        info.path[len(base) :].lstrip("/")
        for info in filesystem.get_file_info(selector)
        if info.type == pyarrow.fs.FileType.File
    ]
    shown = [name for name in found if not re.search(r"(^|/)[._]", name)]
    return sorted(shown, key=lambda name: name.split("/"))


def _data_files(base: str, options: str, names: Sequence[str]) -> list[DataFile]:
    joined = base.rstrip("/")
    return [DataFile(f"{joined}/{name}{options}", name, _partition(name)) for name in names]


def _partition(name: str) -> tuple[tuple[str, str | None], ...]:
    parted = [folder.partition("=") for folder in name.split("/")[:-1]]
    return tuple(
        (unquote(key), None if value == _NULL_PARTITION else unquote(value))
        for key, equals, value in parted
        if key and equals
    )


def _is_whole(text: str) -> bool:
    return re.fullmatch(r"-?[0-9]{1,18}", text) is not None


def _fixed_part(pattern: str) -> list[str]:
    """The folders before the first that has a wildcard, or before the name itself."""
    parts = pattern.split("/")
    first = next((place for place, part in enumerate(parts) if _is_glob(part)), len(parts))
    return parts[:first]


def _expression(pattern: str) -> str:
    """A glob as a regular expression."""
    found = []
    for part in pattern.split("/"):
        if part == "**":
            found.append("(?:.*/)?")
            continue
        pieces = re.findall(r"\[!?\]?[^\]]*\]|.", part)
        words = {"*": "[^/]*", "?": "[^/]"}
        for piece in pieces:
            in_brackets = len(piece) > 1
            found.append(
                piece.replace("[!", "[^", 1) if in_brackets else words.get(piece, re.escape(piece))
            )
        found.append("/")
    # "**" at the end takes all files below; any other last part is a file's name.
    return "".join(found) + ".*" if pattern.endswith("**") else "".join(found)[:-1]
