"""Where things are kept between runs that can be made again."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder() -> Path:
    """The user's cache folder: ``$EMBERAY_CACHE``, ``$XDG_CACHE_HOME/emberay`` or ``~/.cache``."""
    if own := os.environ.get("EMBERAY_CACHE"):
        return Path(own)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "emberay"
    return Path.home() / ".cache" / "emberay"
