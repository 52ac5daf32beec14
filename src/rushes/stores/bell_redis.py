"""A `Bell` for processes on one Redis or Valkey, by its publish and subscribe."""

from __future__ import annotations

import threading
from collections.abc import Callable

from rushes.stores.kv import PAUSE_S, Circuit
from rushes.stores.kv_redis import connect_redis, redis_errors, without_password

CHANNEL = "rushes:jobs"
THROTTLE_S = 0.002
"""Rings closer together than this are one."""

LISTEN_S = 0.25
"""How long the listener waits for a message before it looks whether it is to end."""


class RedisBell:
    """See `Bell`. Rings leave on a thread of its own, so whoever rings waits for no network. While the server
    is away, `wait` is a clock.

    Args:
        url: see `RedisKV`.
        channel: of those who share a store.
        pause_s: after a failure, before the server is tried again.

    Raises:
        ConfigError: as `connect_redis`.
    """

    def __init__(self, url: str, *, channel: str = CHANNEL, pause_s: float = PAUSE_S) -> None:
        name = f"redis {without_password(url)}"
        self._channel, self._pause_s, self._errors = channel, pause_s, redis_errors()
        self._client = connect_redis(url)
        self._rings, self._hears = Circuit(name, self._errors, pause_s=pause_s), threading.Event()
        self._listens = Circuit(f"{name} (subscription)", self._errors, pause_s=pause_s)
        self._is_due, self._stops = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    @property
    def num_errors(self) -> int:
        """Times that the server could not be reached."""
        return self._rings.num_errors + self._listens.num_errors

    def ring(self) -> None:
        """See `Bell`. Sets a flag for the thread that sends."""
        if not self._is_due.is_set():
            self._is_due.set()
            self._start("bell-rings", self._send)

    def wait(self, timeout_s: float) -> bool:
        """See `Bell`. The first call subscribes. A subscription that begins, or begins anew, is heard as a
        ring: others may have been missed."""
        self._start("bell-hears", self._listen)
        was_rung = self._hears.wait(timeout_s)
        self._hears.clear()
        return was_rung

    def close(self) -> None:
        """See `Bell`."""
        self._stops.set()
        self._is_due.set()
        self._hears.set()
        for thread in self._threads:
            thread.join()
        self._client.close()

    def _start(self, name: str, work: Callable[[], None]) -> None:
        """One thread of each kind, when it is first needed."""
        if any(thread.name == name for thread in self._threads):
            return
        with self._lock:
            if not self._stops.is_set() and all(thread.name != name for thread in self._threads):
                thread = threading.Thread(target=work, name=name, daemon=True)
                thread.start()
                self._threads.append(thread)

    def _send(self) -> None:
        while not self._stops.is_set():
            self._is_due.wait()
            self._is_due.clear()  # before it is sent: what changes meanwhile is rung again
            if not self._rings.is_open and not self._stops.is_set():
                with self._rings.guarded():
                    self._client.publish(self._channel, b"")
            self._stops.wait(THROTTLE_S)

    def _listen(self) -> None:
        while not self._stops.is_set():
            with self._listens.guarded():
                self._hear_until_lost()
            self._stops.wait(self._pause_s)

    def _hear_until_lost(self) -> None:
        with self._client.pubsub() as channel:  # type: ignore[no-untyped-call]
            channel.subscribe(self._channel)
            while not self._stops.is_set():
                # The first message says that the subscription stands: what was rung before it was missed.
                if channel.get_message(timeout=LISTEN_S) is not None:
                    self._hears.set()
