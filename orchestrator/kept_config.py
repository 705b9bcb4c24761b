"""The configuration that a run's folder keeps, and what it may not hold, given again.

Secrets are not written into ``config.yaml``: ``(hidden)`` stands in their place. Commands that read
a run's folder take them as words ``key=value``, and say which are missing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.config import RunConfig
from orchestrator.config_loading import load_config, parse_override, read_settings
from orchestrator.errors import ConfigError
from workers.redaction import hidden_in, is_secret_name

__all__ = ["GIVEN_AGAIN", "KeptConfig"]

GIVEN_AGAIN = "what the run's folder does not hold, as it is secret: parameters.api_key=…, data=…"
"""Help for the words of a command that takes no others."""


@dataclass(frozen=True)
class KeptConfig:
    """The ``config.yaml`` of a run.

    Attributes:
        file: Where it lies.
        hidden: Keys, dotted, of what it does not hold.

    Example:
        >>> kept = KeptConfig.of(Path("runs/a"))                            # doctest: +SKIP
        >>> kept.hidden                                                     # doctest: +SKIP
        ('parameters.api_key',)
        >>> config = kept.given_again(["parameters.api_key=swordfish"])     # doctest: +SKIP
    """

    file: Path
    hidden: tuple[str, ...]

    @classmethod
    def of(cls, run_folder: Path) -> KeptConfig:
        """That of a run.

        Raises:
            ConfigError: It is no run's folder, or its configuration cannot be read.
        """
        file = run_folder / "config.yaml"
        if not file.is_file():
            raise ConfigError(f"'{run_folder}' is no run's folder: it has no config.yaml")
        return cls(file, tuple(dict.fromkeys(hidden_in(read_settings(file)))))

    def lacks(self, word: str) -> bool:
        """Whether a word ``key=value`` gives what the file may not hold.

        That are the values that are hidden in it, parameters that are secrets, and the address of
        the data, which may have got another key, or be another one.
        """
        keys, _ = parse_override(word)
        secret = keys[0] == "parameters" and any(map(is_secret_name, keys[1:]))
        return keys == ("data",) or secret or ".".join(keys) in self.hidden

    def with_words(self, words: Iterable[str] = ()) -> RunConfig:
        """The configuration, where words ``key=value`` hold instead of what is written.

        Raises:
            ConfigError: A word cannot be used, or a secret is missing; the message says how to give
                it.
        """
        return load_config(self.file, words)

    def given_again(self, words: Iterable[str]) -> RunConfig:
        """The configuration, with what the file may not hold; nothing else may be given.

        Raises:
            ConfigError: As of `with_words`, or a word gives something else.
        """
        words = tuple(words)
        for word in words:
            if not self.lacks(word):
                key = ".".join(parse_override(word)[0])
                lacking = ", ".join(self.hidden) or "nothing"
                raise ConfigError(
                    f"'{key}' cannot be set here, as it would change what was trained: only what "
                    f"{self.file} does not hold ({lacking}), and data, can be given"
                )
        return self.with_words(words)
