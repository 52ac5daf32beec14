"""Transactions on the file of a store: one border for SQLite's errors, and what is safe on disk when."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from rushes.errors import StoreError
from rushes.stores.sqlite_connections import Connections, PooledConnections, SharedConnection
from rushes.stores.sqlite_versions import Schema
from rushes.trace import span

MEMORY = ":memory:"
_WAL_BYTES = 4 * 2**20
_CACHE_KIB = 512
_CHECKPOINT_WAIT_S = 1.0
_TURN_S = 0.001
_CAUSES = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_READONLY: "is read-only",
    sqlite3.SQLITE_NOTADB: "is no SQLite database",
    sqlite3.SQLITE_CORRUPT: "is damaged or cut short",
    sqlite3.SQLITE_IOERR: "reading or writing failed",
}


class Database:
    """A file of the tables of one schema, open for reading and writing.

    A file that does not exist is made; its folder must be there. Safe for threads, forks and processes.

    Args:
        path: a file on a local disk, or `MEMORY`.
        schema: what it holds.
        timeout_s: how long a transaction waits for another process's.
        on_write: called after each transaction that has changed something, on its thread.

    Raises:
        StoreError: from every method: the path and the cause in one line, SQLite's error chained.
    """

    def __init__(
        self,
        path: str | Path,
        schema: Schema,
        *,
        timeout_s: float,
        on_write: Callable[[], None] = lambda: None,
    ) -> None:
        self._path, self._schema, self._on_write = str(path), schema, on_write
        self._timeout_s = timeout_s
        self._wal_limit = _WAL_BYTES
        with self.errors(), ExitStack() as unless_open:
            self._connections = self._open()
            unless_open.callback(self._connections.close)
            with self._writing() as connection:
                self._schema.bring_up_to_date(connection, self._path)
            unless_open.pop_all()

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Everything read inside is of one moment; writers are neither waited for nor kept waiting."""
        with self.errors(), self._connections.use() as connection:
            self._set_timeout(connection, self._timeout_s)
            connection.execute("BEGIN")
            with _ended(connection):
                self._schema.check_current(connection, self._path)
                yield connection

    @contextmanager
    def write(self, *, is_durable: bool = True) -> Iterator[sqlite3.Connection]:
        """All of the block or, on any error, nothing of it. One writer at a time among all processes, which
        waits for the others at the start only: no write is refused half way.

        Args:
            is_durable: on disk before the block is left, also when the power fails. Otherwise a failing power
                may take it back, together with every later write that is not durable either.
        """
        with (
            span("store_write", is_durable=is_durable),
            self.errors(),
            self._writing(is_durable=is_durable) as connection,
        ):
            self._schema.check_current(connection, self._path)
            before = connection.total_changes
            yield connection
            has_changed = connection.total_changes != before
        if has_changed:
            self._on_write()

    def close(self) -> None:
        with self.errors():
            self._connections.close()

    @contextmanager
    def _writing(self, *, is_durable: bool = True) -> Iterator[sqlite3.Connection]:
        with self._connections.use() as connection:
            _set(connection, "synchronous", "FULL" if is_durable else "NORMAL")
            self._begin_writing(connection)
            with _ended(connection):
                yield connection
            if self._path != MEMORY:
                self._shorten_wal(connection)

    def _begin_writing(self, connection: sqlite3.Connection) -> None:
        """SQLite looks for its turn every 100 ms only, so one process that writes all the time would keep the
        others waiting for seconds; this looks every millisecond. Whoever has begun waits for nobody."""
        self._set_timeout(connection, 0)
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
            time.sleep(_TURN_S)

    def _shorten_wal(self, connection: sqlite3.Connection) -> None:
        """Move a long write-ahead log into the database.

        SQLite would do that by itself, but beside other writers, and before 3.51.3 that can, very rarely,
        damage the file (https://sqlite.org/wal.html, "The WAL-Reset Bug"). TRUNCATE keeps writers out, unless
        it does not get its turn for a second: then it does as SQLite would.
        """
        size = self._wal_bytes()
        if size < self._wal_limit:
            return
        # The transaction is committed: whatever happens here is tried again later.
        with suppress(sqlite3.Error):
            self._set_timeout(connection, min(_CHECKPOINT_WAIT_S, self._timeout_s))
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        # Where a reader was in the way, writers wait for it once for every further length, not every time.
        self._wal_limit = self._wal_bytes() + _WAL_BYTES

    def _wal_bytes(self) -> int:
        try:
            return os.stat(f"{self._path}-wal").st_size
        except FileNotFoundError:
            return 0

    def _open(self) -> Connections:
        if self._path == MEMORY:
            return SharedConnection(self._connect_plainly(), self._schema.name)
        return PooledConnections(self._connect, self._schema.name)

    def _connect(self) -> sqlite3.Connection:
        connection = self._connect_plainly()
        try:
            # Before anything is written: another program's file stays as it is.
            connection.execute("BEGIN")
            with _ended(connection):
                self._schema.check_ours(connection, self._path)
            self._write_ahead(connection)
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _connect_plainly(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path,
            timeout=self._timeout_s,
            isolation_level=None,
            check_same_thread=False,
            factory=_Connection,
        )
        connection.row_factory = sqlite3.Row
        return connection

    def _write_ahead(self, connection: sqlite3.Connection) -> None:
        """Readers and a writer do not wait for each other, and a commit is one flush.

        When several processes make the same file, SQLite refuses this without waiting: it is tried again.
        """
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
                break
            except sqlite3.OperationalError as error:
                if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        if mode != "wal":
            raise StoreError(f"{self._path}: this file system has no write-ahead log (is it a network disk?)")

    def _set_timeout(self, connection: sqlite3.Connection, timeout_s: float) -> None:
        _set(connection, "busy_timeout", str(int(timeout_s * 1000)))

    @contextmanager
    def errors(self) -> Iterator[None]:
        """The border at which SQLite's errors, and those of values that it cannot hold, become ours."""
        try:
            yield
        except (sqlite3.Error, UnicodeEncodeError, OverflowError) as error:
            raise StoreError(f"{self._path}: {self._cause(error)}") from error

    def _cause(self, error: Exception) -> str:
        code = _code(error)
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return f"locked by another process for more than {self._timeout_s:g} s"
        if code == sqlite3.SQLITE_CANTOPEN:
            return f"cannot be opened: {self._why_unopened()}"
        return f"{_CAUSES[code]} ({error})" if code in _CAUSES else str(error)

    def _why_unopened(self) -> str:
        path = Path(self._path)
        if path.is_dir():
            return "it is a folder"
        if not path.parent.is_dir():
            return f"there is no folder {path.parent}"
        return "no permission, or no space for the files beside it"


class _Connection(sqlite3.Connection):
    """Knows what its pragmas are set to: setting one takes as long as a small read."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pragmas: dict[str, str] = {}


def _set(connection: sqlite3.Connection, pragma: str, value: str) -> None:
    assert isinstance(connection, _Connection)
    if connection.pragmas.get(pragma) != value:
        connection.execute(f"PRAGMA {pragma} = {value}")
        connection.pragmas[pragma] = value


@contextmanager
def _ended(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit the transaction, or, on any error, undo it."""
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # After some errors (a full disk) SQLite has undone it by itself.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _code(error: Exception) -> int | None:
    """SQLite's error code without the details in its upper bits; None for an error of Python's."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF
