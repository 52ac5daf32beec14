"""Connections to SQLite for many threads, and across a fork.

SQLite's locks belong to the process, and its list of open files is copied by a fork: a child that touches an
inherited connection, or merely opens the same file beside it, works without locks. So every connection of a
file is closed before a fork, once no thread is inside one, and opened again where it is next needed.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol
from weakref import WeakSet

from rushes.errors import StoreError

MOST_IDLE = 8
"""Open connections of a file that wait for their next use; each has a cache of pages."""


class Connections(Protocol):
    """Where a transaction gets its connection from."""

    def use(self) -> AbstractContextManager[sqlite3.Connection]:
        """A connection that nobody else uses inside the block. Raises `StoreError` once closed."""

    def close(self) -> None:
        """Wait for the blocks that are open, then close every connection; a second call does nothing."""


class PooledConnections:
    """As many connections as were ever needed at once, each used by one thread at a time; `MOST_IDLE` wait.

    Args:
        connect: opens one; usable from every thread (`check_same_thread=False`).
        name: of the store, for errors.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection], name: str) -> None:
        self._connect, self._name = connect, name
        self._gate = threading.Condition()
        self._num_users = 0
        self._is_pausing = False
        self._is_closed = False
        self._idle: list[sqlite3.Connection] = []
        with _FORK:
            _LIVE.add(self)

    @contextmanager
    def use(self) -> Iterator[sqlite3.Connection]:
        connection = self._enter()
        try:
            if connection is None:
                connection = self._connect()
            yield connection
        finally:
            self._leave(connection)

    def close(self) -> None:
        self.pause()
        self._is_closed = True
        self.resume()

    def pause(self) -> None:
        """Wait until no thread uses a connection, close all and let nobody in until `resume`."""
        self._gate.acquire()
        self._gate.wait_for(lambda: not self._is_pausing)
        self._is_pausing = True
        self._gate.wait_for(lambda: not self._num_users)
        while self._idle:
            self._idle.pop().close()

    def resume(self) -> None:
        """Let the others in again; only after `pause`, by the same thread."""
        self._is_pausing = False
        self._gate.notify_all()
        self._gate.release()

    def _enter(self) -> sqlite3.Connection | None:
        """One that waits, the warmest; None where a new one must be opened."""
        with self._gate:
            self._gate.wait_for(lambda: not self._is_pausing)
            if self._is_closed:
                raise StoreError(f"the {self._name} is closed")
            self._num_users += 1
            return self._idle.pop() if self._idle else None

    def _leave(self, connection: sqlite3.Connection | None) -> None:
        """It counts as used until it waits or is closed: a fork would copy one that is being closed."""
        try:
            if connection is not None and not self._put_back(connection):
                connection.close()
        finally:
            with self._gate:
                self._num_users -= 1
                self._gate.notify_all()

    def _put_back(self, connection: sqlite3.Connection) -> bool:
        """Whether there was room for it."""
        with self._gate:
            has_room = len(self._idle) < MOST_IDLE and not connection.in_transaction
            if has_room:
                self._idle.append(connection)
            return has_room


class SharedConnection:
    """One connection that threads take in turns: a database in memory exists in one connection only.

    A forked child would have a copy that nobody else sees, so it is refused there.
    """

    def __init__(self, connection: sqlite3.Connection, name: str) -> None:
        self._connection, self._name = connection, name
        self._turn = threading.Lock()
        self._process = os.getpid()
        self._is_closed = False

    @contextmanager
    def use(self) -> Iterator[sqlite3.Connection]:
        if os.getpid() != self._process:
            raise StoreError(
                f":memory:: a forked process has a copy of its own; give the {self._name} a file"
            )
        with self._turn:
            if self._is_closed:
                raise StoreError(f"the {self._name} is closed")
            yield self._connection

    def close(self) -> None:
        with self._turn:
            self._is_closed = True
            self._connection.close()


_LIVE: WeakSet[PooledConnections] = WeakSet()
_FORK = threading.Lock()
_paused: list[PooledConnections] = []


def _before_fork() -> None:
    _FORK.acquire()
    for connections in list(_LIVE):
        connections.pause()
        _paused.append(connections)


def _after_fork() -> None:
    while _paused:
        _paused.pop().resume()
    _FORK.release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
