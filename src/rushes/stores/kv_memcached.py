"""A `KVStore` in Memcached."""

from __future__ import annotations

import hashlib
import logging
import math
from typing import Any

from rushes.errors import ConfigError
from rushes.stores.kv import KEY_PREFIX, PAUSE_S, TIMEOUT_S, Circuit, missing_package

log = logging.getLogger(__name__)

LONGEST_TTL_S = 30 * 86_400
"""A longer one would be read as a date."""


class MemcachedKV:
    """See `KVStore`. What is larger than the server's item size (1 MiB; its flag `-I`) is not kept.

    Args:
        address: `HOST:PORT`.
        timeout_s: for a connection, and for an answer.
        pause_s: after a failure, in which the server is asked nothing.

    Raises:
        ConfigError: not an address, or the package is missing.
    """

    def __init__(self, address: str, *, timeout_s: float = TIMEOUT_S, pause_s: float = PAUSE_S) -> None:
        try:
            from pymemcache.client.base import PooledClient
            from pymemcache.exceptions import MemcacheError, MemcacheServerError
        except ImportError as error:
            raise missing_package("pymemcache", "--memcached") from error
        options = {"connect_timeout": timeout_s, "timeout": timeout_s, "no_delay": True}
        self._client: Any = PooledClient(_host_and_port(address), **options)
        self._refusal: type[Exception] = MemcacheServerError
        self._circuit = Circuit(f"memcached {address}", (MemcacheError, OSError), pause_s=pause_s)

    @property
    def num_errors(self) -> int:
        """See `KVStore`."""
        return self._circuit.num_errors

    def get(self, key: str) -> bytes | None:
        """See `KVStore`."""
        found: bytes | None = None
        if not self._circuit.is_open:
            with self._circuit.guarded():
                found = self._client.get(_short(key))
        return found

    def put(self, key: str, data: bytes, *, ttl_s: float | None = None) -> None:
        """See `KVStore`. Times are whole seconds there: rounded up."""
        if self._circuit.is_open:
            return
        expire = 0 if ttl_s is None else min(LONGEST_TTL_S, math.ceil(ttl_s))
        with self._circuit.guarded():
            try:
                self._client.set(_short(key), data, expire=expire, noreply=False)
            except self._refusal as error:
                log.debug("memcached keeps no value of %d bytes: %s", len(data), error)

    def delete(self, key: str) -> None:
        """See `KVStore`."""
        if not self._circuit.is_open:
            with self._circuit.guarded():
                self._client.delete(_short(key), noreply=False)

    def close(self) -> None:
        """See `KVStore`."""
        self._client.close()


def _short(key: str) -> str:
    """A key as Memcached allows it: at most 250 bytes, no space in it."""
    return KEY_PREFIX + hashlib.sha256(key.encode()).hexdigest()


def _host_and_port(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65_536:
        raise ConfigError(f"memcached: {address!r} is not an address; expected HOST:PORT")
    return host.strip("[]"), int(port)
