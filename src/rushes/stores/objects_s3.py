"""An `ObjectStore` in a bucket of S3, or of a server that speaks its protocol."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from rushes.config import S3Access, s3_access
from rushes.errors import ConfigError, StoreError
from rushes.stores.kv import missing_package
from rushes.stores.objects import ObjectInfo, ObjectWriter

PART_BYTES = 5 << 20
"""The least that S3 takes as a part, and so the most that a writer holds, times `NUM_PARTS`."""

NUM_PARTS = 2
CONNECT_S, REQUEST_S = 3.0, 20.0
NUM_RETRIES, RETRY_S = 6, 10.0
"""A server that is away is tried so often, and no more once so many seconds have passed."""

URL_TTL_S = 3600.0
MAX_URLS = 4096
"""Signed URLs that are kept, to be given out again while half their time is left."""

CACHE_CONTROL = "public, max-age=31536000, immutable"


class S3Objects:
    """Objects under `PREFIX/NAME`. What a writer makes is uploaded in parts, while it is made, and copied to
    its name by the server.

    Args:
        url: `s3://BUCKET/PREFIX`.
        access: None for what the environment says.
        public_url: base URL of a CDN whose origin is the bucket; None leads to the bucket itself. URLs are
            signed either way: the CDN hands the query on to the bucket, with the bucket's own Host header, or
            ignores it and has access of its own. What it has cached it gives to whoever knows the name.
        url_ttl_s: how long a URL may be used, at least half of it.
        request_s, retry_s: of one request, and of all tries of it. A call may take the sum.

    Raises:
        ConfigError: not such a URL, or the package is missing.
    """

    def __init__(
        self,
        url: str,
        access: S3Access | None = None,
        *,
        public_url: str | None = None,
        url_ttl_s: float = URL_TTL_S,
        request_s: float = REQUEST_S,
        retry_s: float = RETRY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bucket, self._prefix = _bucket_and_prefix(url)
        self._access = access or s3_access()
        self._public_url = None if public_url is None else _base_url(public_url)
        self._url_ttl_s, self._clock = url_ttl_s, clock
        self._urls: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()
        self._store = _connect(self._bucket, self._prefix, self._access, request_s, retry_s)

    def writer(self, name: str, media_type: str) -> ObjectWriter:
        """See `ObjectStore`. There is no object until it is finished; a process that dies leaves parts, which
        a lifecycle rule of the bucket should drop ("abort incomplete multipart uploads")."""
        return _S3Writer(self, self._store, name, media_type)

    def put(self, name: str, data: bytes, media_type: str) -> None:
        """See `ObjectStore`."""
        import obstore

        with self.errors(name):
            obstore.put(self._store, name, data, attributes=attributes(media_type))

    def read(self, name: str) -> bytes:
        """See `ObjectStore`."""
        import obstore

        with self.errors(name):
            return bytes(obstore.get(self._store, name).bytes())

    def info(self, name: str) -> ObjectInfo | None:
        """See `ObjectStore`."""
        import obstore

        with self.errors(name):
            try:
                meta = obstore.head(self._store, name)
            except FileNotFoundError:
                return None
            return ObjectInfo(size=meta["size"], etag=(meta["e_tag"] or "").strip('"'))

    def path(self, name: str) -> Path | None:
        """See `ObjectStore`."""
        return None

    def url(self, name: str) -> str | None:
        """See `ObjectStore`. For a while the same one, so that caches of browsers know it."""
        now = self._clock()
        with self._lock:
            found = self._urls.get(name)
            if found is not None and now < found[1]:
                return found[0]
        signed = self._signed(name)
        with self._lock:
            while len(self._urls) >= MAX_URLS:
                self._urls.pop(next(iter(self._urls)))
            self._urls[name] = (signed, now + self._url_ttl_s / 2)
        return signed

    def delete(self, names: Iterable[str]) -> None:
        """See `ObjectStore`."""
        import obstore

        wanted = list(names)
        with self._lock:
            for name in wanted:
                self._urls.pop(name, None)
        if wanted:
            with self.errors(wanted[0]):
                obstore.delete(self._store, wanted)

    def names(self) -> tuple[str, ...]:
        """See `ObjectStore`."""
        import obstore

        with self.errors(""):
            found = [entry["path"] for page in obstore.list(self._store) for entry in page]
        return tuple(sorted(path.rsplit("/", 1)[-1] for path in found))

    @contextmanager
    def errors(self, name: str) -> Iterator[None]:
        """The border at which errors of S3 become ours, in one line, without keys or signatures."""
        from obstore.exceptions import BaseError

        try:
            yield
        except (BaseError, OSError, ValueError) as error:
            where = "/".join(filter(None, (self._bucket, self._prefix, name)))
            raise StoreError(f"s3://{where}: {_reason(error)}") from error

    def _signed(self, name: str) -> str:
        import obstore

        with self.errors(name):
            url = str(obstore.sign(self._store, "GET", name, timedelta(seconds=self._url_ttl_s)))
        if self._public_url is None:
            return url
        path = "/".join(filter(None, (self._prefix, name)))
        return f"{self._public_url}/{path}?{urlsplit(url).query}"


class _S3Writer:
    """Bytes to an object of the attempt's name, which is copied to the final one."""

    def __init__(self, objects: S3Objects, store: Any, name: str, media_type: str) -> None:
        import obstore

        self._objects, self._store, self._name = objects, store, name
        self._is_complete = False
        options = {"buffer_size": PART_BYTES, "max_concurrency": NUM_PARTS}
        with objects.errors(name):
            self._writer: Any = obstore.open_writer(store, name, attributes=attributes(media_type), **options)

    def write(self, data: bytes, /) -> None:
        with self._objects.errors(self._name):
            self._writer.write(data)

    def finish(self, name: str) -> None:
        import obstore

        with self._objects.errors(self._name):
            self._writer.close()
            self._is_complete = True
            obstore.copy(self._store, self._name, name)
            obstore.delete(self._store, self._name)
        self._is_complete = False

    def abort(self) -> None:
        self._writer = None  # one that was not closed takes its parts back
        if self._is_complete:
            self._is_complete = False
            with suppress(StoreError):  # `Artefacts.remove_orphans` finds it
                self._objects.delete([self._name])


def attributes(media_type: str) -> dict[str, str]:
    """Headers that an object is given out with."""
    return {"Content-Type": media_type, "Cache-Control": CACHE_CONTROL}


def _connect(bucket: str, prefix: str, access: S3Access, request_s: float, retry_s: float) -> Any:
    try:
        from obstore.store import S3Store
    except ImportError as error:
        raise missing_package("obstore", "--s3") from error
    config = {
        "access_key_id": access.access_key_id,
        "secret_access_key": access.secret_access_key,
        "session_token": access.session_token,
        "region": access.region,
        "endpoint": access.endpoint,
        # A server of one's own has one name, and buckets are paths below it.
        "virtual_hosted_style_request": access.endpoint is None,
    }
    client = {
        "allow_http": True,
        "connect_timeout": timedelta(seconds=min(CONNECT_S, request_s)),
        "timeout": timedelta(seconds=request_s),
    }
    backoff = {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=3), "base": 2}
    retry = {"max_retries": NUM_RETRIES, "retry_timeout": timedelta(seconds=retry_s), "backoff": backoff}
    given = {name: value for name, value in config.items() if value is not None}
    try:
        return S3Store(bucket, prefix=prefix or None, config=given, client_options=client, retry_config=retry)
    except Exception as error:  # of the package, whose types say nothing: settings that it cannot use
        raise ConfigError(f"s3://{bucket}: {_reason(error)}") from error


def _bucket_and_prefix(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    if parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment or "@" in parts.netloc:
        raise ConfigError(f"s3: {url!r} is not the URL of a bucket; expected s3://BUCKET/PREFIX")
    return parts.netloc, parts.path.strip("/")


def _base_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
        raise ConfigError(f"public_url: {url!r} is not a base URL; expected https://HOST/PATH")
    return urlunsplit(parts).rstrip("/")


def _reason(error: Exception) -> str:
    """What went wrong, of a message that goes on over many lines and repeats itself."""
    if isinstance(error, FileNotFoundError):
        return "there is no such object"
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return line.removeprefix("Generic S3 error: ").split("<?xml")[0].rstrip(" :")
