"""A `Bell` for the processes of one machine that share a folder, by datagrams on its loopback."""

from __future__ import annotations

import logging
import os
import re
import select
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rushes.stores.forks import renew_in_children
from rushes.stores.locked_files import open_locked, remove_if_dead

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
MOST_AT_ONCE = 64
"""Rings that are read before the store is looked at."""

RETRY_S = 10.0
"""Before another try to listen, after one that failed."""

SETTLED_NS = 10**9
"""A folder that changed less than this ago may change again without another time of change."""

_NAME = re.compile(r"[0-9]+-([0-9]{1,5})")
_MOST_PORT = 65_535


class FolderBell:
    """See `Bell`. Whoever waits listens at a port of its own, which a file in the folder names and holds a
    lock on; whoever rings sends an empty datagram to each. Where sockets or the folder fail, `wait` is a
    clock.

    A ring says nothing but "look", so a stranger's on the same machine costs a look.

    Args:
        folder: of those who share a store; made when somebody first waits.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._closed = threading.Event()
        self.renew()
        renew_in_children(self)

    def renew(self) -> None:
        """Forget what belongs to the process that this one was forked from."""
        self._lock, self._turn = threading.Lock(), threading.Lock()
        self._seen: int | None = None
        self._ports: tuple[int, ...] = ()
        self._ear: _Ear | None = None
        self._sender: _Sender | None = None
        self._retry_at = 0.0

    def ring(self) -> None:
        """See `Bell`: some microseconds for each who listens."""
        with self._lock, suppress(OSError):
            if self._closed.is_set():
                return
            for port in self._listeners():
                self._sender = self._sender or _Sender()
                self._sender.ring(port)

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
            return ear.hears(timeout_s) and not self._closed.is_set()

    def close(self) -> None:
        """See `Bell`."""
        with self._lock:
            self._closed.set()
            ear, self._ear = self._ear, None
            if self._sender is not None:
                self._sender.close()
        if ear is not None:
            ear.wake()  # a `wait` in another thread
            with self._turn:
                ear.close()

    def _listen(self) -> bool:
        """Whether it has just begun to."""
        if time.monotonic() < self._retry_at:
            return False
        with self._lock:
            if self._closed.is_set():
                return False
            try:
                self._ear = _Ear.open(self._folder)
            except OSError as error:
                log.warning("no news from other processes for %g s: %s", RETRY_S, error)
                self._retry_at = time.monotonic() + RETRY_S
                return False
            return True

    def _listeners(self) -> tuple[int, ...]:
        """Their ports; the folder is read again when it has changed."""
        try:
            changed = os.stat(self._folder).st_mtime_ns
        except FileNotFoundError:
            return ()
        if changed != self._seen:
            self._ports = tuple(_ports(self._folder).values())
            self._seen = changed if time.time_ns() - changed > SETTLED_NS else None
        return self._ports


class _Sender:
    """A socket that rings, for as long as anybody has it."""

    def __init__(self) -> None:
        self._socket = _socket()

    def ring(self, port: int) -> None:
        with suppress(OSError):  # its buffer is full: it will look anyway
            self._socket.sendto(b"", (HOST, port))

    def close(self) -> None:
        self._socket.close()

    __del__ = close


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ear:
    """A socket that listens, and the locked file that names its port: one that nobody locks is a dead one's,
    also where process ids say nothing."""

    socket: socket.socket
    poller: select.poll
    name: Path
    file: int

    @classmethod
    def open(cls, folder: Path) -> _Ear:
        """Raises `OSError`."""
        folder.mkdir(parents=True, exist_ok=True)
        for other in _ports(folder):
            with suppress(FileNotFoundError):  # its listener has left
                remove_if_dead(folder / other)
        ear = _socket()
        try:
            ear.bind((HOST, 0))
            name = folder / f"{os.getpid()}-{ear.getsockname()[1]}"
            while (file := open_locked(name, os.O_RDWR | os.O_CREAT)) is None:
                time.sleep(0.001)  # another who begins to listen looks whether it is a dead one's
        except OSError:
            ear.close()
            raise
        poller = select.poll()
        poller.register(ear, select.POLLIN)
        return cls(socket=ear, poller=poller, name=name, file=file)

    def hears(self, timeout_s: float) -> bool:
        """Whether somebody rang; several are one."""
        if not self.poller.poll(1000 * timeout_s):
            return False
        with suppress(OSError):
            for _ in range(MOST_AT_ONCE):
                self.socket.recv(1)
        return True

    def wake(self) -> None:
        """Ring for oneself."""
        with suppress(OSError):
            self.socket.sendto(b"", self.socket.getsockname())

    def close(self) -> None:
        """Its file goes with it."""
        with suppress(OSError):
            self.name.unlink(missing_ok=True)
        os.close(self.file)
        self.socket.close()


def _socket() -> socket.socket:
    found = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    found.setblocking(False)
    return found


def _ports(folder: Path) -> dict[str, int]:
    """Of everybody who listens, by the file's name."""
    matches = [match for name in os.listdir(folder) if (match := _NAME.fullmatch(name))]
    return {match.string: int(match[1]) for match in matches if 0 < int(match[1]) <= _MOST_PORT}
