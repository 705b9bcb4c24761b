"""What the reference on the site reads docstrings with."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

__all__ = ["SingularExample"]


class SingularExample(Extension):
    """Takes a section ``Example:`` for ``Examples:``, which alone shows sessions as code."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Called with every object that is read."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"(?m)^Example:$", "Examples:", obj.docstring.value)
