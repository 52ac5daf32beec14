"""Writes of many threads in one transaction: a flush to the disk takes milliseconds, whatever it flushes."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from rushes.errors import RushesError, StoreError
from rushes.stores.forks import renew_in_children
from rushes.stores.sqlite_database import Database

Result = TypeVar("Result")


@dataclass(slots=True, kw_only=True, eq=False)
class _Write(Generic[Result]):
    """What one thread wants to have written."""

    work: Callable[[sqlite3.Connection], Result]
    result: Result | None = None
    error: BaseException | None = None
    is_over: bool = False


class WriteGroup:
    """Lets threads that write at the same time share a transaction. Who writes alone waits for nobody.

    While one thread flushes, the others queue up; the first of them then writes for all. Each write is done
    and on the disk when `run` returns, or not done at all when it raises; one that fails takes no other with
    it, unless the database itself fails.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._writes: list[_Write[object]] = []
        self.renew()
        renew_in_children(self)

    def renew(self) -> None:
        """Forget the threads of the process that this one was forked from."""
        self._queue, self._turn = threading.Lock(), threading.Lock()
        self._writes.clear()

    def run(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """What `work` returns, once it is on the disk. Raises what it raises, or `StoreError`."""
        mine: _Write[Result] = _Write(work=work)
        with self._queue:
            self._writes.append(cast("_Write[object]", mine))
        with self._turn:
            if not mine.is_over:
                self._write_all()
        if mine.error is not None:
            raise mine.error
        return cast("Result", mine.result)

    def _write_all(self) -> None:
        with self._queue:
            writes = self._writes.copy()
            self._writes.clear()
        try:
            with self._database.write() as connection:
                if len(writes) == 1:
                    writes[0].result = writes[0].work(connection)
                else:
                    self._write_each(connection, writes)
        except BaseException as error:
            _fail(writes, error)
        for write in writes:
            write.is_over = True

    def _write_each(self, connection: sqlite3.Connection, writes: Sequence[_Write[object]]) -> None:
        for write in writes:
            connection.execute("SAVEPOINT one")
            try:
                with self._database.errors():
                    write.result = write.work(connection)
            except RushesError as error:
                # Where SQLite has undone the whole transaction by itself, this fails, and so do all.
                connection.execute("ROLLBACK TO one")
                write.error = error
            connection.execute("RELEASE one")


def _fail(writes: Sequence[_Write[object]], error: BaseException) -> None:
    """The first is the thread's own; each of the others gets an error of its own, whose trace it may grow."""
    writes[0].error = error
    for write in writes[1:]:
        write.error = StoreError(str(error) or type(error).__name__)
        write.error.__cause__ = error
