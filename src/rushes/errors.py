"""Every error that Rushes raises for a caller to act on.

`RequestError` is the caller's to mend (a CLI exits with 2, a server answers 4xx); `ConfigError` is the
operator's; `EngineError` is ours. A message names the value, the rule it broke and the choices.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RushesError(Exception):
    """Base of all errors that Rushes raises on purpose."""


class ConfigError(RushesError):
    """An installation, environment or checkpoint cannot be used as it is."""


class CheckpointError(ConfigError):
    """A checkpoint folder is incomplete, damaged, of another model or of a model not supported."""


class RequestError(RushesError):
    """The request cannot be served as it was written."""


class InvalidRequest(RequestError):
    """One field of a request breaks a rule.

    Args:
        field: the field's name as the caller spells it.
        reason: value, rule and choices in one line.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class UnknownName(InvalidRequest):
    """A name that no registry, preset or solver table holds; the message suggests the nearest."""

    def __init__(self, field: str, name: str, choices: Iterable[str]) -> None:
        known = sorted(choices)
        super().__init__(
            field, f"unknown {name!r}{did_you_mean(name, known)}; choose from {', '.join(known)}"
        )
        self.name = name


class EngineError(RushesError):
    """The engine failed a valid request."""


class OutputError(RushesError):
    """A result could not be written (disk full, no permission, unknown format)."""


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """The choice most like `name`, or None when nothing is near."""
    close = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.5)
    return close[0] if close else None


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """`" (did you mean 'x'?)"`, or an empty string when nothing is near."""
    near = nearest(name, choices)
    return f" (did you mean {near!r}?)" if near else ""
