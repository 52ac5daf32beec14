"""Files whose content never changes under their name: what a store of them promises, and one on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rushes.errors import StoreError
from rushes.stores.disk import BlobFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """What a store says of an object.

    Attributes:
        etag: changes with the content; without quotes.
    """

    size: int
    etag: str


class ObjectWriter(Protocol):
    """An object that is being made; from one thread at a time. Raises `StoreError`."""

    def write(self, data: bytes, /) -> object:
        """The next bytes."""

    def finish(self, name: str) -> None:
        """All of it is an object of this name from now on."""

    def abort(self) -> None:
        """Leave nothing behind; never raises. Also after `finish`, which it does not undo, and twice."""


class ObjectStore(Protocol):
    """Named bytes for many processes and threads. Names are those of `BlobFolder`.

    Every method may raise `StoreError`, in one line and in bounded time, when the store cannot be used.
    """

    def writer(self, name: str, media_type: str) -> ObjectWriter:
        """Begin an object whose bytes come bit by bit; `name` is of this attempt only, and ends with it."""

    def put(self, name: str, data: bytes, media_type: str) -> None:
        """All of an object, in place of what had its name."""

    def read(self, name: str) -> bytes:
        """All of an object. Raises `StoreError` where there is none."""

    def info(self, name: str) -> ObjectInfo | None:
        """None where there is none."""

    def path(self, name: str) -> Path | None:
        """Where an object lies on this machine; None for a store that is elsewhere. Does not look."""

    def url(self, name: str) -> str | None:
        """Where whoever has the URL may read an object for a while; None for a store on this machine. Does
        not look."""

    def delete(self, names: Iterable[str]) -> None:
        """Those that are not there are fine."""

    def names(self) -> tuple[str, ...]:
        """Of all whole objects, sorted."""


class DiskObjects:
    """An `ObjectStore` over a folder. The bytes of a writer can be read while they come, at
    `BlobFolder.partial_path`.

    Example:
        >>> import tempfile
        >>> objects = DiskObjects(BlobFolder(tempfile.mkdtemp()))
        >>> objects.put("a.webp", b"picture", "image/webp")
        >>> objects.info("a.webp").size, objects.info("b.webp"), objects.url("a.webp")
        (7, None, None)
    """

    def __init__(self, blobs: BlobFolder) -> None:
        self._blobs = blobs

    def writer(self, name: str, media_type: str) -> ObjectWriter:
        """See `ObjectStore`. Refused while another process or thread writes this name."""
        return _DiskWriter(self._blobs, name)

    def put(self, name: str, data: bytes, media_type: str) -> None:
        """See `ObjectStore`."""
        self._blobs.write(name, data)

    def read(self, name: str) -> bytes:
        """See `ObjectStore`."""
        return self._blobs.read(name)

    def info(self, name: str) -> ObjectInfo | None:
        """See `ObjectStore`; the etag is of the name, whose content does not change, and of the size."""
        path = self._blobs.path(name)
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}") from error
        return ObjectInfo(size=size, etag=hashlib.sha256(f"{name} {size}".encode()).hexdigest()[:32])

    def path(self, name: str) -> Path | None:
        """See `ObjectStore`."""
        return self._blobs.path(name)

    def url(self, name: str) -> str | None:
        """See `ObjectStore`."""
        return None

    def delete(self, names: Iterable[str]) -> None:
        """See `ObjectStore`."""
        for name in names:
            self._blobs.delete(name)

    def names(self) -> tuple[str, ...]:
        """See `ObjectStore`."""
        return self._blobs.names()


class _DiskWriter:
    def __init__(self, blobs: BlobFolder, name: str) -> None:
        self._final = name
        self._stack = ExitStack()
        self._path = self._stack.enter_context(blobs.growing(name, final_name=lambda: self._final))
        # Buffered, since a bare file may write less than it was given when the disk is full.
        try:
            self._file = self._path.open("wb")
        except OSError as error:
            self._stack.close()
            raise self._error(error) from error

    def write(self, data: bytes, /) -> None:
        try:
            self._file.write(data)
            self._file.flush()  # what was written can be read
        except OSError as error:
            raise self._error(error) from error

    def finish(self, name: str) -> None:
        self._final = name
        try:
            self._file.close()
        except OSError as error:
            raise self._error(error) from error
        self._stack.close()

    def abort(self) -> None:
        with suppress(_Aborted, OSError, StoreError), self._stack:
            raise _Aborted
        with suppress(OSError):  # the rest of a buffer may find no room; the file is gone anyway
            self._file.close()

    def _error(self, error: OSError) -> StoreError:
        return StoreError(f"{self._path}: {error.strerror or error}")


class _Aborted(Exception):
    """Ends the context of a file that is not to be."""
