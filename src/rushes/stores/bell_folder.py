"""A `Bell` for the processes of one machine that share a folder, by datagrams on its loopback."""

from __future__ import annotations

import logging
import os
import select
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
MOST_AT_ONCE = 64
"""Rings that are read before the store is looked at."""

SHOWN = 0o644
SETTLED_NS = 10**9
"""A folder that changed less than this ago may change again without another time of change."""


class FolderBell:
    """See `Bell`. Whoever waits listens at a port of its own, which a file in the folder names; whoever rings
    sends an empty datagram to each. Where sockets or the folder fail, `wait` is a clock.

    A ring says nothing but "look", so a stranger's on the same machine costs a look.

    Args:
        folder: of those who share a store; made when somebody first waits.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock, self._turn = threading.Lock(), threading.Lock()
        self._seen: int | None = None
        self._ports: tuple[int, ...] = ()
        self._sender: socket.socket | None = None
        self._ear: socket.socket | None = None
        self._name: Path | None = None
        self._closed = threading.Event()

    def ring(self) -> None:
        """See `Bell`: some microseconds for each who listens."""
        with self._lock, suppress(OSError):
            if self._closed.is_set():
                return
            if self._sender is None:
                self._sender = _socket()
            for port in self._listeners():
                with suppress(OSError):  # its buffer is full: it will look anyway
                    self._sender.sendto(b"", (HOST, port))

    def wait(self, timeout_s: float) -> bool:
        """See `Bell`. The first call begins to listen, and is heard as a ring: some may be missed."""
        with self._turn:
            if self._closed.is_set():
                return False
            if self._ear is None and self._listen():
                return True
            if (ear := self._ear) is None:
                self._closed.wait(timeout_s)
                return False
            is_heard = bool(select.select([ear], [], [], timeout_s)[0])
            if is_heard:
                self._drain(ear)
            return is_heard and not self._closed.is_set()

    def close(self) -> None:
        """See `Bell`."""
        with self._lock:
            self._closed.set()
            name, self._name = self._name, None
            if name is not None:
                name.unlink(missing_ok=True)
            ear, self._ear = self._ear, None
            if self._sender is not None:
                self._sender.close()
        if ear is not None:
            with suppress(OSError):
                ear.sendto(b"", ear.getsockname())  # for a `wait` in another thread
            with self._turn:
                ear.close()

    def _listen(self) -> bool:
        with self._lock:
            if self._closed.is_set():
                return False
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._forget_dead()
                ear = _socket()
                ear.bind((HOST, 0))
                name = self._folder / f"{os.getpid()}-{ear.getsockname()[1]}"
                name.touch(SHOWN)
            except OSError as error:
                log.warning("no news from other processes: %s", error)
                return False
            self._ear, self._name = ear, name
            return True

    def _listeners(self) -> tuple[int, ...]:
        """Their ports; the folder is read again when it has changed."""
        try:
            changed = os.stat(self._folder).st_mtime_ns
        except FileNotFoundError:
            return ()
        if changed != self._seen:
            self._ports = tuple(port for _, port in _entries(self._folder))
            self._seen = changed if time.time_ns() - changed > SETTLED_NS else None
        return self._ports

    def _forget_dead(self) -> None:
        for pid, port in _entries(self._folder):
            if not _is_alive(pid):
                (self._folder / f"{pid}-{port}").unlink(missing_ok=True)

    @staticmethod
    def _drain(ear: socket.socket) -> None:
        with suppress(BlockingIOError):
            for _ in range(MOST_AT_ONCE):
                ear.recv(1)


def _socket() -> socket.socket:
    found = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    found.setblocking(False)
    return found


def _entries(folder: Path) -> list[tuple[int, int]]:
    """Process and port of everybody who listens."""
    pairs = (name.split("-") for name in os.listdir(folder))
    return [(int(pair[0]), int(pair[1])) for pair in pairs if len(pair) == 2 and all(map(str.isdigit, pair))]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
