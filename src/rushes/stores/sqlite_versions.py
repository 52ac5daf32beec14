"""What a file of ours holds, of which version it is, and how an older one becomes a newer one.

`PRAGMA application_id` says which kind of store a file is, `PRAGMA user_version` of which version.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from rushes.errors import StoreError


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """The tables of one kind of file. Nothing in them needs an SQLite newer than 3.34 (Red Hat 9).

    Attributes:
        name: in errors: "job store".
        application_id: 32 bits that no other kind of file has.
        version: the one that this Rushes writes.
        tables: statements that make an empty file one of that version.
        migrations: for each older version, the statements that lead to the next.
    """

    name: str
    application_id: int
    version: int
    tables: tuple[str, ...]
    migrations: Mapping[int, tuple[str, ...]]

    def check_ours(self, connection: sqlite3.Connection, path: str) -> int:
        """The version of a file; 0 for an empty one, which may become ours. Changes nothing. Inside a
        transaction, since another process may be making the tables.

        Raises:
            StoreError: the file is another program's database, or its version is not known.
        """
        application, version = _value(connection, "application_id"), _value(connection, "user_version")
        if application == version == 0 and _is_empty(connection):
            return 0
        if application != self.application_id:
            raise StoreError(
                f"{path}: not {self._article} {self.name} of Rushes: a database with application id "
                f"{application}, schema version {version}; expected application id {self.application_id}"
            )
        if not 1 <= version <= self.version:
            raise StoreError(
                f"{path}: schema version {version} is not supported; this Rushes reads 1 to {self.version}"
            )
        return version

    def check_current(self, connection: sqlite3.Connection, path: str) -> None:
        """Raises `StoreError` when another Rushes has migrated the file since it was opened."""
        version = _value(connection, "user_version")
        if version != self.version:
            raise StoreError(f"{path}: has schema version {version} by now; this Rushes needs {self.version}")

    def bring_up_to_date(self, connection: sqlite3.Connection, path: str) -> None:
        """Make the tables, or migrate them. The caller holds a writing transaction and commits it.

        Something is written in any case: to SQLite a read-only file is fine until then.

        Raises:
            StoreError: as `check_ours`.
        """
        version = self.check_ours(connection, path)
        for statement in self._steps_from(version) if version else self.tables:
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {self.application_id}")
        connection.execute(f"PRAGMA user_version = {self.version}")

    @property
    def _article(self) -> str:
        return "an" if self.name[0] in "aeiou" else "a"

    def _steps_from(self, version: int) -> tuple[str, ...]:
        steps = range(version, self.version)
        return tuple(statement for step in steps for statement in self.migrations[step])


def _is_empty(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None


def _value(connection: sqlite3.Connection, pragma: str) -> int:
    value: int = connection.execute(f"PRAGMA {pragma}").fetchone()[0]
    return value
