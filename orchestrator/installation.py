"""Is the ``kernels`` package that Python finds ours?

The import names of this distribution are short, and another distribution on the package index
installs a ``kernels`` package too. Whichever comes first on ``sys.path`` wins silently, so it is
checked before anything is imported from it. This file imports nothing of the project.
"""

from __future__ import annotations

from importlib import import_module

__all__ = ["WrongPackageError", "check_installation"]


class WrongPackageError(ImportError):
    """A package of another distribution stands where one of emberay should be."""


def check_installation() -> None:
    """Make sure that ``import kernels`` finds emberay's package.

    Raises:
        WrongPackageError: There is no ``kernels`` package, or it belongs to another distribution.
    """
    try:
        kernels = import_module("kernels")
    except ModuleNotFoundError as error:
        raise WrongPackageError(
            f"emberay's package 'kernels' cannot be imported ({error}); reinstall emberay"
        ) from error
    if getattr(kernels, "DISTRIBUTION", None) != "emberay":
        place = getattr(kernels, "__file__", None) or "an unknown place"
        raise WrongPackageError(
            f"the package 'kernels' at {place} is not emberay's: another distribution of the same "
            "import name hides it; uninstall that one (pip uninstall kernels) and reinstall emberay"
        )
