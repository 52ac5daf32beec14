"""A client of HTTP/1.1 that costs little: one connection, one request at a time, bytes as they come."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httptools


@dataclass(slots=True, kw_only=True)
class Answer:
    """A response; `data` only where the caller did not take the bytes as they came."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    data: bytes = b""

    def json(self) -> Any:
        return json.loads(self.data)


class ConnectionGone(Exception):
    """The server closed it in mid-answer, or refused it."""


class _Wire(asyncio.Protocol):
    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.answer = Answer(status=0)
        self.done: asyncio.Future[Answer] | None = None
        self.on_data: Callable[[bytes], None] | None = None
        self._parts: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def expect(self, on_data: Callable[[bytes], None] | None) -> asyncio.Future[Answer]:
        self._parser = httptools.HttpResponseParser(self)
        self.answer, self._parts, self.on_data = Answer(status=0), [], on_data
        self.done = asyncio.get_running_loop().create_future()
        return self.done

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.answer.headers[name.decode().lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.answer.status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        if self.on_data is None:
            self._parts.append(data)
        else:
            self.on_data(data)

    def on_message_complete(self) -> None:
        self.answer.data = b"".join(self._parts)
        assert self.done is not None
        if not self.done.done():
            self.done.set_result(self.answer)

    def connection_lost(self, error: Exception | None) -> None:
        if self.done is not None and not self.done.done():
            self.done.set_exception(ConnectionGone(str(error or "closed by the server")))


class Connection:
    """Keeps one connection open; a context manager of asyncio's kind."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._wire: _Wire | None = None

    async def __aenter__(self) -> Connection:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop it, whatever goes on."""
        if self._wire is not None and self._wire.transport is not None:
            self._wire.transport.abort()
        self._wire = None

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: dict[str, str] | None = None,
        on_data: Callable[[bytes], None] | None = None,
    ) -> Answer:
        """Raises `ConnectionGone`."""
        wire = await self._connected()
        data = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self._host}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        if body is not None:
            lines += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
        done = wire.expect(on_data)
        assert wire.transport is not None
        wire.transport.write("\r\n".join([*lines, "", ""]).encode() + data)
        return await done

    async def events(
        self, path: str, headers: dict[str, str] | None = None
    ) -> AsyncIterator[tuple[float, dict[str, Any]]]:
        """Server-sent events with the time at which each was here, seconds since the epoch; their data with
        `event` and `id`. Raises `ConnectionGone`, also for an answer that is none."""
        queue: asyncio.Queue[tuple[float, bytes] | None] = asyncio.Queue()

        async def read() -> Answer:
            try:
                return await self.request(
                    "GET", path, headers=headers, on_data=lambda data: queue.put_nowait((time.time(), data))
                )
            finally:
                queue.put_nowait(None)

        reader, held = asyncio.create_task(read()), b""
        try:
            while (part := await queue.get()) is not None:
                held += part[1].replace(b"\r\n", b"\n")
                while b"\n\n" in held:
                    block, _, held = held.partition(b"\n\n")
                    if (event := event_of(block)) is not None:
                        yield part[0], event
            answer = await reader
            if answer.status != 200:
                raise ConnectionGone(f"{path}: {answer.status} {held[:300]!r}")
        finally:
            reader.cancel()

    async def _connected(self) -> _Wire:
        if self._wire is None or self._wire.transport is None or self._wire.transport.is_closing():
            loop = asyncio.get_running_loop()
            try:
                _, self._wire = await loop.create_connection(_Wire, self._host, self._port)
            except OSError as error:
                raise ConnectionGone(str(error)) from error
        return self._wire


def event_of(block: bytes) -> dict[str, Any] | None:
    """One event of a stream, None for a comment."""
    fields: dict[str, str] = {}
    for line in block.decode().split("\n"):
        name, _, value = line.partition(": ")
        if name in ("event", "id", "data"):
            fields[name] = value
    if "data" not in fields:
        return None
    return {**json.loads(fields["data"]), "event": fields.get("event"), "id": fields.get("id")}
