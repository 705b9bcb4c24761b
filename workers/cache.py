"""Where things are kept between runs that can be made again."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path

__all__ = ["cache_folder", "make_private", "not_private"]


def cache_folder() -> Path:
    """The user's cache folder: ``$EMBERAY_CACHE``, ``$XDG_CACHE_HOME/emberay`` or ``~/.cache``."""
    if own := os.environ.get("EMBERAY_CACHE"):
        return Path(own)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "emberay"
    return Path.home() / ".cache" / "emberay"


def make_private(folder: Path) -> None:
    """Make a folder, and those above it that are missing, for this user alone.

    Raises:
        OSError: It cannot be made.
    """
    if not folder.exists():
        make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def not_private(folder: Path) -> str:
    """Why somebody else may have written what lies in a folder; empty if nobody can have.

    The folder must be this user's, and those above it this user's or root's; others may write to
    none, but for those above in which only the owner of a file may replace it, as in ``/tmp``. The
    group of a user with the same name counts as the user.

    Args:
        folder: An existing folder.
    """
    user = os.geteuid()
    real = folder.resolve()
    for place in (real, *real.parents):
        found = place.stat()
        own = found.st_uid == user or (found.st_uid == 0 and place != real)
        if not own:
            return f"'{place}' belongs to {_name_of(found.st_uid)}, not to {_name_of(user)}"
        others = stat.S_IWOTH | (0 if _is_own_group(found.st_gid, user) else stat.S_IWGRP)
        if found.st_mode & others and not (place != real and found.st_mode & stat.S_ISVTX):
            return f"others may write to '{place}': chmod go-w '{place}'"
    return ""


def _is_own_group(group: int, user: int) -> bool:
    try:
        entry = grp.getgrgid(group)
    except KeyError:
        return False
    name = _name_of(user)
    return entry.gr_name == name and set(entry.gr_mem) <= {name}


def _name_of(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"user {user}"
