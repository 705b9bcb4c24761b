"""What several system tests use."""

from tests.system.undisturbed import small_data, undisturbed

__all__ = ["small_data", "undisturbed"]
