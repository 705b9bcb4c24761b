"""Commands below commands: ``data convert``, ``tables export``."""

from __future__ import annotations

import argparse

__all__ = ["Commands", "commands_below"]

type Commands = argparse._SubParsersAction[argparse.ArgumentParser]
"""What ``add_parser`` is called on."""


def commands_below(parser: argparse.ArgumentParser) -> Commands:
    """Where to add the commands that come after what the parser reads; one must be given."""
    return parser.add_subparsers(metavar="command", required=True)
