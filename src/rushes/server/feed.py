"""News of all jobs, read from the store once and told to everybody in this process who watches."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from functools import partial
from typing import Protocol

from rushes.errors import StoreError
from rushes.stores.base import JobStore
from rushes.types import FINAL, JobEvent

log = logging.getLogger(__name__)

WATCHED_S = 0.01
"""Between two looks at the store while somebody watches."""

IDLE_S = 0.1
AWAY_S = 0.5
"""After a look that failed."""

MOST_AT_ONCE = 1000
MOST_TRIES = 3
"""Looks at one event that fail, by damage or a bug, before it is left out."""

FEW, PAGE = 32, 500
"""Events of one job that are read on the loop, which takes half a millisecond, and on a thread."""

MAX_WAITING = 256
"""Events that may wait for one watcher; the rest it reads from the store."""


class Bell(Protocol):
    """How processes tell each other that the store has changed: `rushes.stores.bell`."""

    def wait(self, timeout_s: float) -> bool:
        """Return after so many seconds, or earlier when the store may have changed."""


class Sleep:
    """A bell that nobody rings."""

    def wait(self, timeout_s: float) -> bool:
        """See `Bell`."""
        time.sleep(timeout_s)
        return False


async def _only(event: JobEvent) -> AsyncGenerator[JobEvent, None]:
    yield event


class Watcher:
    """One reader's queue. Events beyond `MAX_WAITING` are dropped; the reader finds them in the store."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.queue: asyncio.Queue[JobEvent | None] = asyncio.Queue(MAX_WAITING)
        self.has_dropped = False

    def offer(self, event: JobEvent | None) -> None:
        """On the loop's thread; None asks the reader to go."""
        if self.queue.full():
            self.has_dropped = True
        else:
            self.queue.put_nowait(event)

    async def next(self) -> JobEvent | None:
        """The next one that was not dropped; None when the gateway is about to stop."""
        return await self.queue.get()

    def must_read_store(self, event: JobEvent, after: int) -> bool:
        """Whether there is more in the store than this event, the one behind `after`: one that was dropped,
        or this is one that was seen before."""
        if self.queue.empty() and self.has_dropped:
            self.has_dropped = False
            return True
        return event.number != after + 1


class Feed:
    """Reads `JobStore.feed` on a thread of its own, from the moment it is started.

    Args:
        bell: wakes the thread; None looks every `WATCHED_S`, every `IDLE_S` while nobody watches.
        on_event: told of every event, on the feed's thread; must be quick. An error of its is logged.
    """

    def __init__(
        self, store: JobStore, bell: Bell | None = None, on_event: Sequence[Callable[[JobEvent], None]] = ()
    ) -> None:
        self._store, self._bell, self._on_event = store, bell or Sleep(), tuple(on_event)
        self._watchers: dict[str, set[Watcher]] = {}
        self._is_dismissed = False
        self._limit, self._num_failures = MOST_AT_ONCE, 0
        self._lock = threading.Lock()
        self._stops = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)

    def listen(self, on_event: Callable[[JobEvent], None]) -> None:
        """One more to be told of every event; before `start`."""
        self._on_event = (*self._on_event, on_event)

    def start(self) -> None:
        """Begin at the store's last event."""
        self._place = self._store.last_place()
        self._thread.start()

    def stop(self) -> None:
        """Returns when the thread has ended."""
        self._stops.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def has_died(self) -> bool:
        """Whether the thread was started and is gone."""
        return self._thread.ident is not None and not self._thread.is_alive()

    def dismiss(self) -> None:
        """End all `events`, those that are asked for later too, after what has happened by now: their readers
        go on elsewhere."""
        with self._lock:
            self._is_dismissed = True
            watchers = [watcher for some in self._watchers.values() for watcher in some]
        for watcher in watchers:
            _call(watcher.loop, partial(watcher.offer, None))

    @property
    def num_watchers(self) -> int:
        """Open ones, of all jobs."""
        with self._lock:
            return sum(len(some) for some in self._watchers.values())

    async def events(self, job_id: str, *, after: int = 0) -> AsyncGenerator[JobEvent, None]:
        """A job's events with a number above `after`, as they happen, up to the one that ends it or until
        `dismiss`; none is left out, none comes twice. Raises `UnknownJob`."""
        with self.watching(job_id) as watcher:
            last = await self._seen(job_id, after)
            async with aclosing(self._stored(job_id, last)) as told:
                async for event in told:
                    last = event.number
                    if last > after:
                        yield event
                    if event.kind in FINAL:
                        return
            while not self._is_dismissed:
                latest = await watcher.next()
                if latest is None:
                    return
                news = _only(latest)
                if watcher.must_read_store(latest, last):
                    news = self._stored(job_id, last)
                async with aclosing(news):
                    async for event in news:
                        last = event.number
                        yield event
                        if event.kind in FINAL:
                            return

    async def _seen(self, job_id: str, after: int) -> int:
        """The number to read on from so that the event `after` comes once more: it tells whether the end was
        seen. A number beyond the last stands for all of them."""
        if after and self._store.events(job_id, after=after - 1, limit=1):
            return after - 1
        return 0

    async def _stored(self, job_id: str, after: int) -> AsyncGenerator[JobEvent, None]:
        """What the store has behind a number. A few are read at once; the many of a long history, a page at a
        time on a thread, so that the loop goes on meanwhile."""
        page = self._store.events(job_id, after=after, limit=FEW)
        limit = FEW
        while True:
            for event in page:
                yield event
            if len(page) < limit:
                return
            limit = PAGE
            page = await asyncio.to_thread(self._store.events, job_id, after=page[-1].number, limit=limit)

    @contextmanager
    def watching(self, job_id: str) -> Iterator[Watcher]:
        """A watcher of one job's events, from now on."""
        watcher = Watcher()
        with self._lock:
            self._watchers.setdefault(job_id, set()).add(watcher)
        try:
            yield watcher
        finally:
            with self._lock:
                left = self._watchers[job_id]
                left.discard(watcher)
                if not left:
                    del self._watchers[job_id]

    def _run(self) -> None:
        while not self._stops.is_set():
            try:
                news = self._store.feed(after=self._place, limit=self._limit)
            except StoreError as error:
                log.warning("the feed cannot read the store: %s", error)
                self._stops.wait(AWAY_S)
                continue
            except Exception:
                log.exception("the feed cannot read what follows place %d", self._place)
                self._narrow()
                self._stops.wait(AWAY_S)
                continue
            self._place, self._num_failures = news.place, 0
            is_all = len(news.events) < self._limit
            self._limit = min(2 * self._limit, MOST_AT_ONCE)
            self._tell(news.events)
            if is_all:
                self._bell.wait(WATCHED_S if self._watchers else IDLE_S)

    def _narrow(self) -> None:
        """Go on to the damaged event by itself, and past it once it has failed often enough."""
        self._num_failures += self._limit == 1
        self._limit = 1
        if self._num_failures >= MOST_TRIES:
            with suppress(StoreError):
                self._place = min(self._place + 1, self._store.last_place())

    def _tell(self, events: Sequence[JobEvent]) -> None:
        """Wakes a loop once for all that it is told."""
        offers: dict[asyncio.AbstractEventLoop, list[tuple[Watcher, JobEvent]]] = {}
        with self._lock:
            for event in events:
                for watcher in self._watchers.get(event.job_id, ()):
                    offers.setdefault(watcher.loop, []).append((watcher, event))
        for loop, some in offers.items():
            _call(loop, partial(_offer_all, some))
        for event in events:
            for listener in self._on_event:
                try:
                    listener(event)
                except Exception:  # one listener's bug must not silence the others
                    log.exception("a listener of the feed failed at %s of job %s", event.kind, event.job_id)


def _offer_all(offers: Sequence[tuple[Watcher, JobEvent]]) -> None:
    for watcher, event in offers:
        watcher.offer(event)


def _call(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # it was closed, and nobody is left to tell
        loop.call_soon_threadsafe(call)
