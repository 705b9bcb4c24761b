"""What a command prints, without the secrets that it was given.

The output of a job is kept by Ray as the job's log. Errors may speak of what they refuse, and a
program may print what it was given: both are freed of secrets on their way out.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from orchestrator.config_loading import parse_override, read_settings
from orchestrator.errors import ConfigError
from workers.redaction import RedactedStream, Redactor

__all__ = ["hidden_output"]

_SETTINGS_FILES = (".yaml", ".yml")


@contextmanager
def hidden_output(words: Sequence[str]) -> Iterator[None]:
    """Hide the secrets of a command, and of the environment, in what this process prints.

    Args:
        words: Of the command: ``key=value`` and configuration files among them count.
    """
    hide = Redactor.of(*(source for word in words for source in _values_of(word)), os.environ)
    tell_of = sys.excepthook

    def tell_without_secrets(*error: Any) -> None:
        sys.stderr.write(hide("".join(traceback.format_exception(*error))))

    sys.excepthook = tell_without_secrets
    with (
        redirect_stdout(RedactedStream(sys.stdout, hide)),
        redirect_stderr(RedactedStream(sys.stderr, hide)),
    ):
        yield
    # Not if an error comes through here: nobody expected it, and Python is about to tell of it.
    sys.excepthook = tell_of


def _values_of(word: str) -> Iterator[dict[str, Any]]:
    """What a word sets, by names; nothing, if it sets nothing or cannot be used."""
    key, equals, text = word.partition("=")
    try:
        if equals:
            name = key.rpartition(".")[2]
            yield {name: text}
            yield {name: parse_override(word)[1]}
        elif word.endswith(_SETTINGS_FILES):
            yield read_settings(Path(word))
    except ConfigError:
        return
