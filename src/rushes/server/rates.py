"""Requests of the last minute, counted in sliding windows: in this process, or in Redis for all gateways.

Two counters a key, of this window and the one before; the one before counts by the share of it that lies
within the last `WINDOW_S` (the sliding window counter of the `limits` library). No wall clock takes part:
Redis keeps its own time-outs, this process its monotonic clock, so a clock that jumps refuses nobody.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import redis
from limits import RateLimitItemPerMinute
from limits.storage import RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from redis.backoff import NoBackoff
from redis.retry import Retry

logger = logging.getLogger(__name__)

WINDOW_S = 60.0
TIMEOUT_S = 0.1
"""The longest that a request waits for Redis, once to connect and once for an answer."""
PAUSE_S = 5.0
"""After an error of Redis's, this process counts by itself for so long."""
_MOST_KEYS = 100_000
_MARGIN_S = 0.001  # at the very moment, the estimate still stands at the limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What is counted for one key.

    Attributes:
        before, now: requests of the window before and of this one.
        before_ends_s: until the window before counts no more: its share is this over `WINDOW_S`.
        now_ends_s: until this window becomes the one before.
    """

    before: int
    before_ends_s: float
    now: int
    now_ends_s: float

    @property
    def used(self) -> int:
        """Requests within the last `WINDOW_S` seconds, by that estimate."""
        return math.floor(self.before * self.before_ends_s / WINDOW_S) + self.now

    @property
    def reset_s(self) -> float:
        """When nothing is counted any more, without further requests."""
        return self.now_ends_s + WINDOW_S if self.now else self.before_ends_s if self.before else 0.0

    def wait_s(self, limit: int) -> float:
        """When one more request is within the limit, without others."""
        if self.used < limit:
            return 0.0
        if self.now < limit:
            wait_s = self.before_ends_s - (limit - self.now) * WINDOW_S / self.before
        else:
            wait_s = self.now_ends_s + WINDOW_S - limit * WINDOW_S / self.now
        return max(0.0, wait_s) + _MARGIN_S


class Rate(Protocol):
    """Counts requests by key; safe for threads."""

    def hit(self, key_id: str, limit: int) -> Window | None:
        """Count one request if that is within the limit, and return None; else what is counted already."""

    def close(self) -> None:
        """Let go of connections."""


class LocalRate:
    """Counts the requests that this process sees. A key's windows begin with its first request, as in Redis.

    Args:
        timer: seconds that never jump.
    """

    def __init__(self, *, timer: Callable[[], float] = time.monotonic) -> None:
        self._timer = timer
        self._turn = threading.Lock()
        self._counts: OrderedDict[str, tuple[float, int, int]] = OrderedDict()

    def hit(self, key_id: str, limit: int) -> Window | None:
        with self._turn:
            time_now = self._timer()
            began_at, before, now = self._counted(key_id, time_now)
            left_s = began_at + WINDOW_S - time_now
            window = Window(before=before, before_ends_s=left_s, now=now, now_ends_s=left_s)
            if window.used >= limit:
                return window
            self._counts[key_id] = (began_at, before, now + 1)
            self._counts.move_to_end(key_id)
            if len(self._counts) > _MOST_KEYS:
                self._counts.popitem(last=False)
        return None

    def close(self) -> None:
        pass

    def _counted(self, key_id: str, time_now: float) -> tuple[float, int, int]:
        """When this window began, requests of the one before, and of it."""
        began_at, before, now = self._counts.get(key_id, (time_now, 0, 0))
        num_windows = int((time_now - began_at) // WINDOW_S)
        if num_windows == 0:
            return began_at, before, now
        return (began_at + WINDOW_S, now, 0) if num_windows == 1 else (time_now, 0, 0)


class RedisRate:
    """Counts in Redis, for all gateways that use it; while Redis is away, in this process.

    Losing Redis never fails a request: after an error, `PAUSE_S` pass before it is asked again, and limits
    hold per gateway meanwhile.

    Attributes:
        num_errors: calls that Redis did not answer.
    """

    def __init__(self, url: str, *, timer: Callable[[], float] = time.monotonic) -> None:
        self._pool = redis.ConnectionPool.from_url(
            url,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )
        self._storage = RedisStorage(url, connection_pool=self._pool, key_prefix="rushes:rate")
        self._windows = SlidingWindowCounterRateLimiter(self._storage)
        self._local = LocalRate(timer=timer)
        self._timer = timer
        self._asked_again_at = -math.inf
        self.num_errors = 0

    @property
    def is_away(self) -> bool:
        """Whether this process counts by itself just now."""
        return self._timer() < self._asked_again_at

    def hit(self, key_id: str, limit: int) -> Window | None:
        if self.is_away:
            return self._local.hit(key_id, limit)
        try:
            return self._shared_hit(key_id, limit)
        except (redis.RedisError, OSError) as error:
            self.num_errors += 1
            # Its class only: the URL may hold a password.
            logger.warning("Redis is away, this gateway counts by itself: %s", type(error).__name__)
            self._asked_again_at = self._timer() + PAUSE_S
            return self._local.hit(key_id, limit)

    def close(self) -> None:
        self._pool.disconnect()

    def _shared_hit(self, key_id: str, limit: int) -> Window | None:
        item = RateLimitItemPerMinute(limit)
        if self._windows.hit(item, key_id):
            return None
        before, before_ends_s, now, now_ends_s = self._storage.get_sliding_window(
            item.key_for(key_id), item.get_expiry()
        )
        # Redis counts the end of a window from its last use: one window later than it becomes the one before.
        return Window(
            before=before, before_ends_s=before_ends_s, now=now, now_ends_s=max(0.0, now_ends_s - WINDOW_S)
        )
