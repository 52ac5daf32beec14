"""Server-sent events (WHATWG HTML, 9.2): one block of lines an event, comments while nothing happens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")

HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
MEDIA_TYPE = "text/event-stream"
PING_S = 10.0
PING = b": still here\r\n\r\n"


def block_of(kind: str, data: Mapping[str, Any], number: int | None = None) -> bytes:
    """One event.

    Example:
        >>> block_of("progress", {"units": 1}, 3)
        b'id: 3\\r\\nevent: progress\\r\\ndata: {"units":1}\\r\\n\\r\\n'
    """
    name = "" if number is None else f"id: {number}\r\n"
    return f"{name}event: {kind}\r\ndata: {json.dumps(data, separators=(',', ':'))}\r\n\r\n".encode()


async def blocks(
    source: AsyncGenerator[T, None], encode: Callable[[T], bytes], *, ping_s: float = PING_S
) -> AsyncIterator[bytes]:
    """A stream's blocks as its source gives events, and comments while it gives none; closes the source."""
    coming: asyncio.Task[T | None] | None = None
    try:
        while True:
            if coming is None:
                coming = asyncio.ensure_future(anext(source, None))
            await asyncio.wait({coming}, timeout=ping_s)
            if not coming.done():
                yield PING
                continue
            event, coming = coming.result(), None
            if event is None:
                return
            yield encode(event)
    finally:
        if coming is not None:
            coming.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await coming
        await source.aclose()
