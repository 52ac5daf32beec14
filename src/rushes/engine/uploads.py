"""A growing file on its way to another store, at that store's speed. No torch here."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import BinaryIO

from rushes.errors import StoreError
from rushes.stores.objects import ObjectStore, ObjectWriter

log = logging.getLogger(__name__)

CHUNK = 1 << 20


class Upload:
    """Follows a file and uploads what it grows by, on a thread of its own: a slow store delays no frame, and
    holds a megabyte at a time. A store that fails on the way is tried once more, with the whole file, at the
    end.

    Args:
        name: of the attempt, see `ObjectStore.writer`.
        path: the file, which is there and stays readable until `finish` or `abort` returns.
    """

    def __init__(self, store: ObjectStore, name: str, media_type: str, path: Path) -> None:
        self._store, self._name, self._media_type = store, name, media_type
        self._file: BinaryIO = path.open("rb")
        self._news = threading.Event()
        self._is_whole = self._is_aborted = False
        self._writer: ObjectWriter | None = None
        self._failure: StoreError | None = StoreError(f"{name}: the upload did not end")
        self._thread = threading.Thread(target=self._run, name=f"upload-{name}", daemon=True)
        self._thread.start()

    def tell(self) -> None:
        """The file has grown. Returns at once."""
        self._news.set()

    def finish(self, name: str) -> None:
        """The file is whole: upload the rest, as an object of this name. Raises `StoreError`; nothing is left
        open then either."""
        self._is_whole = True
        self._news.set()
        self._thread.join()
        with self._file:
            try:
                if self._failure is None:
                    self._close(name)
            except StoreError as error:
                self._failure = error
            if self._failure is not None:
                log.warning("%s: uploaded once more: %s", name, self._failure)
                self._again(name)

    def abort(self) -> None:
        """Leave nothing behind; never raises. Waits for the part in work. Also after `finish`."""
        self._is_aborted = True
        self._news.set()
        self._thread.join()
        if self._writer is not None:
            self._writer.abort()
        self._file.close()

    def _run(self) -> None:
        try:
            self._writer = self._store.writer(self._name, self._media_type)
            while not self._is_aborted:
                # Cleared and asked before the file is read: what comes later is told again.
                self._news.clear()
                is_whole = self._is_whole
                self._send_rest()
                if is_whole:
                    self._failure = None
                    return
                self._news.wait()
        except StoreError as error:
            self._failure = error
        except OSError as error:
            self._failure = StoreError(f"{self._name}: {error.strerror or error}")

    def _send_rest(self) -> None:
        assert self._writer is not None
        while not self._is_aborted and (data := self._file.read(CHUNK)):
            self._writer.write(data)

    def _close(self, name: str) -> None:
        assert self._writer is not None
        self._writer.finish(name)

    def _again(self, name: str) -> None:
        if self._writer is not None:
            self._writer.abort()
        self._file.seek(0)
        self._writer = self._store.writer(self._name, self._media_type)
        self._send_rest()
        self._close(name)
