"""What must not be written down: secrets, by the names of what holds them.

Programs take parameters, and data may lie at an address with a key in it. Whatever is written into
a run's folder or a log goes through a ``Redactor`` first, which knows the secrets of the
configuration and of the environment, and puts ``HIDDEN`` in their place, wherever they stand.

A name is that of a secret if it ends in one of some words, such as ``api_key``, ``db_password`` or
``HF_TOKEN``. Only texts are hidden: numbers, such as that of ``token: 3``, are no secrets.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TextIO
from urllib.parse import unquote

__all__ = ["HIDDEN", "RedactedStream", "Redactor", "hidden_in", "hide_addresses", "is_secret_name"]

HIDDEN = "(hidden)"
"""What stands in the place of a secret."""

_SHORTEST = 6
"""Shorter secrets are hidden where they stand alone, but not looked for in texts."""
_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_SECRET = re.compile(
    r"(^|_)(passwords?|passwd|passphrase|[a-z0-9]+_pwd|secrets?|token|credentials?|api_?keys?|signature|sig"
    r"|bearer|authorization|cookie|((access|account|auth|encryption|master|private|secret|service"
    r"|shared|signing|storage)_?keys?)|((access|api|auth|bearer|id|refresh|session)_?tokens))"
    r"(_(id|value|\d+))?$"
)
_USER = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]*://)([^/\s@?#'\"]+)@")
_QUERY = re.compile(r"([?&])([^=&\s?#]+)=([^&\s#'\"]+)")
_NOBODY = ("anonymous", HIDDEN)
"""Users of an address that are no secret."""


def is_secret_name(name: str) -> bool:
    """Whether what has this name is a secret.

    Example:
        >>> [is_secret_name(name) for name in ("apiKey", "HF_TOKEN", "token_column", "monkey")]
        [True, True, False, False]
    """
    return bool(_SECRET.search("_".join(_PARTS.findall(name)).lower()))


def hide_addresses(text: str) -> str:
    """A text with the users and keys in its addresses hidden.

    Example:
        >>> hide_addresses("read s3://KEY:SECRET@logs/a?region=x&secret_key=y")
        'read s3://(hidden)@logs/a?region=x&secret_key=(hidden)'
    """
    if "://" not in text:
        return text
    text = _USER.sub(lambda m: m[0] if m[2] in _NOBODY else f"{m[1]}{HIDDEN}@", text)
    return _QUERY.sub(
        lambda m: f"{m[1]}{m[2]}={HIDDEN}" if is_secret_name(unquote(m[2])) else m[0], text
    )


def hidden_in(values: Any, place: str = "") -> Iterator[str]:
    """Keys, dotted, of texts in which something was hidden; of a list, the key of all of it.

    Args:
        values: Nested mappings and lists, as read from a configuration.
        place: Where they stand.
    """
    match values:
        case str() if HIDDEN in values:
            yield place
        case Mapping():
            for key, value in values.items():
                yield from hidden_in(value, f"{place}.{key}" if place else str(key))
        case list() | tuple():
            # What stands in a list has no key of its own.
            yield from (place for value in values for _ in hidden_in(value))


class Redactor:
    """Puts ``HIDDEN`` in the place of secrets.

    Args:
        secrets: Texts to look for.

    Example:
        >>> hide = Redactor.of({"parameters": {"api_key": "swordfish"}})
        >>> hide("no such key: swordfish"), hide.values({"api_key": "x", "width": 8})
        ('no such key: (hidden)', {'api_key': '(hidden)', 'width': 8})
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        found = {secret for secret in secrets if len(secret) >= _SHORTEST and secret != HIDDEN}
        # Where a secret lies is none, as with GOOGLE_APPLICATION_CREDENTIALS.
        found = {secret for secret in found if not _is_path(secret)}
        # The longest first: one may be a part of another.
        longest_first = sorted(found, key=lambda secret: (-len(secret), secret))
        self._secrets = re.compile("|".join(map(re.escape, longest_first))) if found else None

    @classmethod
    def of(cls, *sources: Mapping[str, Any]) -> Redactor:
        """One that knows the secrets in configurations and environments, by their names."""
        return cls(secret for source in sources for secret in _secrets_in(source))

    def __call__(self, text: str) -> str:
        """A text without secrets."""
        if self._secrets is not None:
            text = self._secrets.sub(HIDDEN, text)
        return hide_addresses(text)

    def values(self, value: Any, name: str = "") -> Any:
        """Nested plain values without secrets; mappings and lists are made anew.

        Args:
            value: Any value.
            name: Its name, which tells whether it is a secret.
        """
        match value:
            case str():
                return HIDDEN if is_secret_name(name) else self(value)
            case Mapping():
                inner = name if is_secret_name(name) else ""
                return {key: self.values(item, inner or str(key)) for key, item in value.items()}
            case list():
                return [self.values(item, name) for item in value]
            case tuple():
                return tuple(self.values(item, name) for item in value)
        return value


class RedactedStream(io.TextIOBase):
    """A text stream that hides secrets in what is written through it.

    One that is written in two parts is not found, nor one in bytes.

    Args:
        stream: Where it goes.
        hide: Makes a text that may be written.
    """

    def __init__(self, stream: TextIO, hide: Redactor) -> None:
        self._stream = stream
        self._hide = hide

    def write(self, text: str, /) -> int:
        """Write a text without its secrets; the number of characters that were given."""
        self._stream.write(self._hide(text))
        return len(text)

    def flush(self) -> None:
        """Hand on what is buffered."""
        self._stream.flush()

    def fileno(self) -> int:
        """Of the stream that it goes to."""
        return self._stream.fileno()

    def isatty(self) -> bool:
        """Whether somebody looks at the stream that it goes to."""
        return self._stream.isatty()

    def writable(self) -> bool:
        """It can be written to."""
        return True

    def __getattr__(self, name: str) -> Any:
        """All else that streams have, such as ``reconfigure``, is that of the stream behind."""
        if name == "_stream":
            raise AttributeError(name)
        return getattr(self._stream, name)

    @property
    def buffer(self) -> BinaryIO:
        """Of the stream that it goes to; bytes that are written there are not looked at."""
        return self._stream.buffer

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Of the stream that it goes to."""
        return self._stream.encoding


def _is_path(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):
        return False


def _secrets_in(value: Any, name: str = "") -> Iterator[str]:
    match value:
        case str() if is_secret_name(name):
            yield value
        case str():
            for user in _USER.findall(value):
                parts = [user[1], *user[1].split(":", 1)[1:]]
                yield from (text for part in parts if part not in _NOBODY for text in _both(part))
            for _, key, text in _QUERY.findall(value):
                if is_secret_name(unquote(key)):
                    yield from _both(text)
        case Mapping():
            inner = name if is_secret_name(name) else ""
            for key, item in value.items():
                yield from _secrets_in(item, inner or str(key))
        case list() | tuple():
            for item in value:
                yield from _secrets_in(item, name)


def _both(text: str) -> tuple[str, str]:
    """As it stands in an address, and as it is meant."""
    return text, unquote(text)
