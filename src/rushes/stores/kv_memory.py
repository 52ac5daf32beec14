"""A `KVStore` in this process."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from math import inf


class MemoryKV:
    """The least recently used values leave first.

    Args:
        max_bytes: of keys and values together; a value that has no room alone is not kept.
        clock: seconds that only grow.

    Attributes:
        num_bytes: kept now.
        num_errors: none.

    Example:
        >>> kv = MemoryKV(max_bytes=10)
        >>> kv.put("a", b"1234")
        >>> kv.put("b", b"1234")
        >>> kv.put("c", b"1")
        >>> kv.get("a"), kv.get("b"), kv.num_bytes
        (None, b'1234', 7)
    """

    def __init__(self, max_bytes: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.max_bytes, self.num_bytes, self.num_errors = max_bytes, 0, 0
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[bytes, float]] = OrderedDict()  # least recently used first

    def get(self, key: str) -> bytes | None:
        """See `KVStore`."""
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                return None
            data, ends_at = found
            if self._clock() >= ends_at:
                self._drop(key)
                return None
            self._kept.move_to_end(key)
            return data

    def put(self, key: str, data: bytes, *, ttl_s: float | None = None) -> None:
        """See `KVStore`."""
        with self._lock:
            self._drop(key)
            if _size(key, data) > self.max_bytes:
                return
            self._kept[key] = (bytes(data), inf if ttl_s is None else self._clock() + ttl_s)
            self.num_bytes += _size(key, data)
            while self.num_bytes > self.max_bytes:
                self._drop(next(iter(self._kept)))

    def delete(self, key: str) -> None:
        """See `KVStore`."""
        with self._lock:
            self._drop(key)

    def close(self) -> None:
        """See `KVStore`."""
        with self._lock:
            self._kept.clear()
            self.num_bytes = 0

    def _drop(self, key: str) -> None:
        found = self._kept.pop(key, None)
        if found is not None:
            self.num_bytes -= _size(key, found[0])


def _size(key: str, data: bytes) -> int:
    return len(key.encode()) + len(data)
