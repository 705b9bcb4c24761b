"""A stand-in for a learning-rate function that a description can only name."""

from __future__ import annotations

from typing import Any, NoReturn

__all__ = ["CallablePlaceholder"]


class CallablePlaceholder:
    """Takes the place of a function where specs are rebuilt from a description of them.

    Such specs can be inspected, compared and stacked. Placeholders of one tag are equal. Calling
    one is an error, so no model can train with it by mistake.

    Attributes:
        tag: What tells the function from others, for example its qualified name.

    Example:
        >>> AdagradOptimizerSpec(CallablePlaceholder("my_package.schedule"))
    """

    def __init__(self, tag: str) -> None:
        self.tag = tag

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError(
            f"CallablePlaceholder '{self.tag}' cannot be evaluated: it only names a function; put "
            "the function itself into the optimizer spec"
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CallablePlaceholder) and self.tag == other.tag

    def __hash__(self) -> int:
        return hash(self.tag)

    def __repr__(self) -> str:
        return f"CallablePlaceholder({self.tag!r})"
