"""HTTP calls that outlive a lost connection."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx2

from rushes.client.answers import error_of
from rushes.errors import ServiceError

TRIES = 6
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0
AWAY = (502, 503, 504)
"""Answers of a service that starts, stops or is away, and of a proxy before one."""


class Lost(Exception):
    """A connection broke, or the service is away: worth another try."""


class Pauses:
    """Between the tries of one call: each twice as long as the one before.

    Raises:
        ServiceError: from `wait`, when there were `TRIES`.
    """

    def __init__(self) -> None:
        self._num_lost = 0

    def reset(self) -> None:
        """Something came: the tries count anew."""
        self._num_lost = 0

    def wait(self, lost: Lost) -> None:
        """Sleep, or give up."""
        self._num_lost += 1
        if self._num_lost >= TRIES:
            raise ServiceError(str(lost)) from lost
        time.sleep(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (self._num_lost - 1)))


class Connection:
    """To one service, with one key.

    Args:
        timeout_s: without a byte; an event stream says something every 10 s.
    """

    def __init__(self, url: str, key: str | None, *, timeout_s: float) -> None:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._url = url.rstrip("/")
        self._http = httpx2.Client(headers=headers, timeout=timeout_s, follow_redirects=True)

    def close(self) -> None:
        """Let go of open connections."""
        self._http.close()

    def json(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        """An answer's object. Every call may be made twice: those that create something have a key.

        Raises:
            RushesError: the service's own error, or `ServiceError`.
        """
        pauses = Pauses()
        while True:
            try:
                with self.opened(method, path, **request) as response:
                    response.read()
                    content: dict[str, Any] = response.json()
                    return content
            except Lost as lost:
                pauses.wait(lost)

    @contextmanager
    def opened(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, **request: Any
    ) -> Iterator[httpx2.Response]:
        """An answer that is read by the caller, as it comes.

        Raises:
            Lost: also while it is read.
            RushesError: the service's own error.
        """
        try:
            with self._http.stream(method, f"{self._url}{path}", headers=headers, **request) as response:
                if response.status_code in AWAY:
                    response.read()
                    raise Lost(str(error_of(response)))
                if response.status_code >= 400:
                    response.read()
                    raise error_of(response)
                yield response
        except httpx2.TransportError as error:
            raise Lost(f"{self._url} cannot be reached ({error or type(error).__name__})") from error
        except (httpx2.InvalidURL, httpx2.TooManyRedirects, httpx2.DecodingError, ValueError) as error:
            raise ServiceError(f"{self._url}: {error}") from error
