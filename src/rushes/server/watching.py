"""A job's events as a watcher gets them: its own, its place, and those of the job it waits for."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from rushes.errors import UnknownJob
from rushes.server.reuse import maker_of
from rushes.stores.base import JobRecord
from rushes.types import JobEvent

if TYPE_CHECKING:
    from rushes.server.gateway import Gateway

POSITION_S = 1.0
"""Between two looks of a watcher at its place in the queue, more or less a quarter: watchers that came
together would all look at once."""

AHEAD = 16
"""Events that are read before a watcher asks for them."""

FORWARDED = ("started", "resumed", "progress", "preview", "frames")
"""Kinds of an original's events that a twin's watcher gets."""

Queue = asyncio.Queue[JobEvent | Exception | None]


async def watched(gateway: Gateway, record: JobRecord, *, after: int = 0) -> AsyncGenerator[JobEvent, None]:
    """A job's events up to its end, or until the gateway is drained. While it is queued, besides, events
    without a number (0): `position` whenever its place changes, and while it waits for another that makes
    the same clip, what is told of that one's work, from its beginning."""
    job_id, queue = record.id, Queue(AHEAD)
    reader = asyncio.create_task(_read(gateway, job_id, after, queue))
    original = _Original(gateway, record, queue)
    is_queued, told = record.status == "queued", -1
    try:
        while True:
            try:
                if is_queued:
                    async with asyncio.timeout(POSITION_S * random.uniform(0.75, 1.25)):
                        event = await queue.get()
                else:
                    event = await queue.get()
            except TimeoutError:
                place = await gateway.told_place(job_id)
                is_queued = place is not None
                original.look()
                if place is not None and place.data["position"] != told:
                    told = place.data["position"]  # type: ignore[assignment]
                    yield place
                continue
            if event is None:
                return
            if isinstance(event, Exception):
                raise event
            if event.number:
                is_queued = event.kind in ("queued", "degraded")
            yield event
            if event.kind == "queued" and (place := await gateway.told_place(job_id)) is not None:
                told = place.data["position"]  # type: ignore[assignment]
                yield place
    finally:
        reader.cancel()
        original.leave()


async def _read(gateway: Gateway, job_id: str, after: int, queue: Queue) -> None:
    try:
        async for event in gateway.feed.events(job_id, after=after):
            await queue.put(event)
        await queue.put(None)
    except Exception as error:  # to be raised where the events are read
        await queue.put(error)


class _Original:
    """Follows whichever job a queued one waits for; that may change."""

    def __init__(self, gateway: Gateway, record: JobRecord, queue: Queue) -> None:
        self._gateway, self._job_id, self._queue = gateway, record.id, queue
        self._followed = record.id
        self._task: asyncio.Task[None] | None = None
        self._follow(maker_of(record))

    def look(self) -> None:
        """Whom it waits for now."""
        with suppress(UnknownJob):
            self._follow(maker_of(self._gateway.place.jobs.get(self._job_id)))

    def leave(self) -> None:
        """Follow nobody."""
        if self._task is not None:
            self._task.cancel()

    def _follow(self, maker: str) -> None:
        if maker == self._followed:
            return
        self.leave()
        self._followed = maker
        self._task = None if maker == self._job_id else asyncio.create_task(self._forward(maker))

    async def _forward(self, original: str) -> None:
        with suppress(UnknownJob):  # it was deleted; the job is its own from now on
            async for event in self._gateway.feed.events(original):
                if event.kind in FORWARDED:
                    await self._queue.put(replace(event, number=0, job_id=self._job_id))
