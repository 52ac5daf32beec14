"""A `KVStore` in Redis or Valkey."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from rushes.errors import ConfigError
from rushes.stores.kv import KEY_PREFIX, PAUSE_S, TIMEOUT_S, Circuit, missing_package

if TYPE_CHECKING:
    from redis import Redis


def connect_redis(url: str, *, timeout_s: float = TIMEOUT_S) -> Redis:
    """A client that connects when it is first used, and gives up after `timeout_s`, without another try.

    Raises:
        ConfigError: not such a URL, or the package is missing.
    """
    try:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError as error:
        raise missing_package("redis", "--redis") from error
    options: dict[str, Any] = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
    }
    try:
        return redis.Redis.from_url(url, **options)
    except ValueError as error:
        raise ConfigError(
            f"redis: {without_password(url)!r} is not a URL of a Redis; expected redis://HOST:PORT/NUMBER,"
            " rediss:// or unix://"
        ) from error


def redis_errors() -> tuple[type[Exception], ...]:
    """What a call of a client raises when its server is away, full or confused."""
    from redis import RedisError

    return (RedisError, OSError)


def without_password(url: str) -> str:
    """A URL that may be shown."""
    head, at, tail = url.rpartition("@")
    return f"{head.partition('//')[0]}//...@{tail}" if at else url


class RedisKV:
    """See `KVStore`. How much is kept, and what leaves first, the server's `maxmemory` settings say.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        timeout_s: for a connection, and for an answer.
        pause_s: after a failure, in which the server is asked nothing.

    Raises:
        ConfigError: as `connect_redis`.
    """

    def __init__(self, url: str, *, timeout_s: float = TIMEOUT_S, pause_s: float = PAUSE_S) -> None:
        self._client = connect_redis(url, timeout_s=timeout_s)
        self._circuit = Circuit(f"redis {without_password(url)}", redis_errors(), pause_s=pause_s)

    @property
    def num_errors(self) -> int:
        """See `KVStore`."""
        return self._circuit.num_errors

    def get(self, key: str) -> bytes | None:
        """See `KVStore`."""
        found: bytes | None = None
        if not self._circuit.is_open:
            with self._circuit.guarded():
                found = cast("bytes | None", self._client.get(KEY_PREFIX + key))
        return found

    def put(self, key: str, data: bytes, *, ttl_s: float | None = None) -> None:
        """See `KVStore`."""
        if not self._circuit.is_open:
            with self._circuit.guarded():
                ttl_ms = None if ttl_s is None else max(1, round(1000 * ttl_s))
                self._client.set(KEY_PREFIX + key, data, px=ttl_ms)

    def delete(self, key: str) -> None:
        """See `KVStore`."""
        if not self._circuit.is_open:
            with self._circuit.guarded():
                self._client.delete(KEY_PREFIX + key)

    def close(self) -> None:
        """See `KVStore`."""
        self._client.close()
