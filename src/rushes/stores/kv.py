"""Bytes under keys that may be gone at any time: what a cache between processes promises.

A server that is away is a cache that has nothing: nobody waits for it for long, and nobody fails for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rushes.errors import ConfigError

log = logging.getLogger(__name__)

TIMEOUT_S = 0.25
"""For a connection, and for an answer: a server on the same network takes milliseconds."""

PAUSE_S = 2.0
"""After a failure, in which the server is asked nothing."""

KEY_PREFIX = "rushes:"


class KVStore(Protocol):
    """For any number of threads. No method raises for a server that is away, full or confused."""

    @property
    def num_errors(self) -> int:
        """Calls that the server failed; those during the pause behind one are not counted."""

    def get(self, key: str) -> bytes | None:
        """What was put last under this key; None where that is not known any more, or never was."""

    def put(self, key: str, data: bytes, *, ttl_s: float | None = None) -> None:
        """Keep it, if there is room, for `ttl_s` seconds at most."""

    def delete(self, key: str) -> None:
        """Forget it. What a server that is away keeps, it may give out when it is back."""

    def close(self) -> None:
        """Let go of connections."""


class Circuit:
    """Keeps calls away from a server for a while after one has failed.

    Example:
        >>> circuit = Circuit("redis", (ConnectionError,))
        >>> with circuit.guarded():
        ...     raise ConnectionError("refused")
        >>> circuit.is_open, circuit.num_errors
        (True, 1)
    """

    def __init__(
        self,
        name: str,
        errors: tuple[type[Exception], ...],
        *,
        pause_s: float = PAUSE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name, self._errors, self._pause_s, self._clock = name, errors, pause_s, clock
        self._lock = threading.Lock()
        self._asks_at = -float("inf")
        self._was_away = False
        self.num_errors = 0

    @property
    def is_open(self) -> bool:
        """Whether the server is not to be asked now."""
        return self._clock() < self._asks_at

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Around one call: its failure is counted and logged, and opens the circuit."""
        try:
            yield
        except self._errors as error:
            self._fail(error)
        else:
            self._succeed()

    def _fail(self, error: Exception) -> None:
        with self._lock:
            self.num_errors += 1
            self._asks_at = self._clock() + self._pause_s
            is_news, self._was_away = not self._was_away, True
        if is_news:
            log.warning("%s is away: %s", self._name, error)

    def _succeed(self) -> None:
        if self._was_away:
            with self._lock:
                is_news, self._was_away = self._was_away, False
            if is_news:
                log.warning("%s is back", self._name)


def missing_package(name: str, what: str) -> ConfigError:
    """A part that was asked for needs a package that is not installed."""
    return ConfigError(f"{what} needs the Python package {name}: install rushes[serve]")
