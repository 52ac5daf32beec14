"""Server-sent events (WHATWG HTML, 9.2): one block of lines an event, comments while nothing happens."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, suppress
from typing import Any, TypeVar

T = TypeVar("T")

HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
MEDIA_TYPE = "text/event-stream"
PING_S = 10.0
PING = b": still here\r\n\r\n"
MOST_TOGETHER = 16
"""Events that are read ahead of a client."""


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
    """A stream's blocks as its source gives events, those that come together as one piece, and comments while
    it gives none; closes the source."""
    made: deque[bytes] = deque()
    news, room = asyncio.Event(), asyncio.Event()

    async def pump() -> None:
        try:
            async with aclosing(source):
                async for event in source:
                    made.append(encode(event))
                    news.set()
                    if len(made) >= MOST_TOGETHER:
                        room.clear()
                        await room.wait()
        finally:
            news.set()

    pumping = asyncio.create_task(pump())
    try:
        while made or not pumping.done():
            with suppress(TimeoutError):
                async with asyncio.timeout(ping_s):
                    await news.wait()
            news.clear()
            piece = b"".join(made)
            made.clear()
            room.set()
            if piece or not pumping.done():
                yield piece or PING
        pumping.result()
    finally:
        pumping.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await pumping
