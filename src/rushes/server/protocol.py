"""HTTP/1.1 of uvicorn, with an end for clients that send their headers too slowly or never read."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from rushes.server.bounds import Bounds

LINGER_S = 2.0
"""For a body that goes on behind its answer: closed at once, the client might lose the answer."""

_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large"
_TOO_SLOW = b"HTTP/1.1 408 Request Timeout"
_END = b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


def protocol_of(bounds: Bounds) -> type[asyncio.Protocol]:
    """The class of a server's connections, for `uvicorn.Config(http=...)`."""

    class Bounded(BoundedProtocol):
        BOUNDS = bounds

    return Bounded


class BoundedProtocol(HttpToolsProtocol):
    """Uvicorn's parser takes headers of any length, for any time, and waits for a client that does not read
    as long as the connection stands."""

    BOUNDS = Bounds()

    def __init__(self, *args: Any, **fields: Any) -> None:
        super().__init__(*args, **fields)
        self._header_bytes = 0
        self._is_in_headers = True
        self._has_whole_request = True
        self._late: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._lingers: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._late, self._stalled, self._lingers):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_in_headers:
            self._header_bytes += len(data)
        super().data_received(data)
        if self._is_in_headers and self._header_bytes > self.BOUNDS.header_bytes:
            self._refuse(_TOO_LARGE)
        elif self._is_in_headers and self._header_bytes and self._late is None:
            self._expect_headers()

    def on_message_begin(self) -> None:
        self._header_bytes = max(1, self._header_bytes)
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._is_in_headers = self._has_whole_request = False
        if self._late is not None:
            self._late.cancel()
            self._late = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._is_in_headers, self._header_bytes, self._has_whole_request = True, 0, True
        if self._lingers is not None:
            self._lingers.cancel()
            self._lingers = None

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._has_whole_request:
            self._lingers = self.loop.call_later(LINGER_S, self.transport.close)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(self.BOUNDS.stall_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _expect_headers(self) -> None:
        self._late = self.loop.call_later(self.BOUNDS.header_s, self._give_up)

    def _give_up(self) -> None:
        self._late = None
        if self.cycle is not None and not self.cycle.response_complete:
            return  # it has begun its next request before the answer to this one
        self._refuse(_TOO_SLOW)

    def _refuse(self, line: bytes) -> None:
        if not self.transport.is_closing():
            if self.cycle is None or self.cycle.response_complete:
                self.transport.write(line + _END)
            self.transport.close()
