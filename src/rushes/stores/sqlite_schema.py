"""The tables of a job store in SQLite, their version, and the way from an older one.

`PRAGMA application_id` says that a file is a job store, `PRAGMA user_version` says of which version. A new
field of `GenerateRequest` or `JobOptions` is a new version too: its migration writes the field into the JSON.
Nothing here needs an SQLite newer than 3.34 (Red Hat 9).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from rushes.errors import StoreError

APPLICATION_ID = int.from_bytes(b"Rush", "big")
VERSION = 4

_EVENTS = (
    """
    CREATE TABLE events (
        place INTEGER PRIMARY KEY AUTOINCREMENT, -- in the order of commits, of all jobs; never given twice
        job_id TEXT NOT NULL,
        number INTEGER NOT NULL,
        kind TEXT NOT NULL,
        at REAL NOT NULL,
        data TEXT NOT NULL
    )
    """,
    "CREATE UNIQUE INDEX events_by_job ON events (job_id, number)",
    # The database itself refuses a second end.
    "CREATE UNIQUE INDEX events_end ON events (job_id) WHERE kind IN ('completed', 'failed', 'cancelled')",
)

_TABLES = (
    """
    CREATE TABLE jobs (
        id TEXT PRIMARY KEY,            -- sorts by creation, see job_ids
        tenant TEXT NOT NULL,
        idempotency_key TEXT,
        asked TEXT NOT NULL DEFAULT '', -- JSON of the request as it came
        request TEXT NOT NULL,          -- JSON of the request as it will run
        options TEXT NOT NULL,
        pipeline TEXT NOT NULL,
        is_interactive INTEGER NOT NULL,
        status TEXT NOT NULL CHECK (status IN ('queued', 'running', 'completed', 'failed', 'cancelled')),
        created_at REAL NOT NULL,
        started_at REAL,
        finished_at REAL,
        predicted_s REAL,
        eta_s REAL,
        actual_s REAL,
        owner TEXT,
        token INTEGER NOT NULL DEFAULT 0,
        lease_until REAL,
        lease_ttl_s REAL,
        deaths INTEGER NOT NULL DEFAULT 0,
        checkpoint TEXT,
        result TEXT,
        error TEXT,
        error_kind TEXT,
        wants_cancel INTEGER NOT NULL DEFAULT 0,
        needs_bytes INTEGER             -- of device memory, NULL where nobody has said
    )
    """,
    "CREATE UNIQUE INDEX jobs_by_key ON jobs (tenant, idempotency_key) WHERE idempotency_key IS NOT NULL",
    "CREATE INDEX jobs_by_tenant ON jobs (tenant, id)",
    """
    CREATE INDEX jobs_open ON jobs (is_interactive DESC, id, pipeline, needs_bytes)
    WHERE status IN ('queued', 'running')
    """,
    "CREATE INDEX jobs_running ON jobs (id) WHERE status = 'running'",
    "CREATE INDEX jobs_saved ON jobs (id) WHERE checkpoint IS NOT NULL",
    """
    CREATE INDEX jobs_ended ON jobs (finished_at, id, status)
    WHERE status IN ('completed', 'failed', 'cancelled')
    """,
    *_EVENTS,
)

_MIGRATIONS: Mapping[int, tuple[str, ...]] = {
    # Version 1 compared a repeated call with the request as it ran, so a degraded job conflicted with itself.
    1: (
        "ALTER TABLE jobs ADD COLUMN asked TEXT NOT NULL DEFAULT ''",
        "UPDATE jobs SET asked = request",
    ),
    2: (
        "ALTER TABLE jobs ADD COLUMN needs_bytes INTEGER",
        "DROP INDEX jobs_open",
        "CREATE INDEX jobs_open ON jobs (is_interactive DESC, id, pipeline, needs_bytes)"
        " WHERE status IN ('queued', 'running')",
    ),
    # Version 3 could tell the events of one job only, and a job knew of no trace.
    3: (
        "ALTER TABLE events RENAME TO events_3",
        "DROP INDEX events_end",
        *_EVENTS,
        "INSERT INTO events (job_id, number, kind, at, data)"
        " SELECT job_id, number, kind, at, data FROM events_3 ORDER BY at, job_id, number",
        "DROP TABLE events_3",
        "UPDATE jobs SET options = json_set(options, '$.traceparent', NULL)",
    ),
}
"""What leads from a version to the next."""


def check_ours(connection: sqlite3.Connection, path: str) -> int:
    """The schema version of a job store; 0 for an empty file, which may become one. Changes nothing. Inside a
    transaction, since another process may be making the tables.

    Raises:
        StoreError: the file is another program's database, or its version is not known.
    """
    application, version = _value(connection, "application_id"), _value(connection, "user_version")
    if application == version == 0 and _is_empty(connection):
        return 0
    if application != APPLICATION_ID:
        raise StoreError(
            f"{path}: not a job store of Rushes: a database with application id {application}, "
            f"schema version {version}; expected application id {APPLICATION_ID}"
        )
    if not 1 <= version <= VERSION:
        raise StoreError(
            f"{path}: schema version {version} is not supported; this Rushes reads 1 to {VERSION}"
        )
    return version


def check_current(connection: sqlite3.Connection, path: str) -> None:
    """Raises `StoreError` when another Rushes has migrated the store since it was opened."""
    version = _value(connection, "user_version")
    if version != VERSION:
        raise StoreError(f"{path}: has schema version {version} by now; this Rushes needs {VERSION}")


def bring_up_to_date(connection: sqlite3.Connection, path: str) -> None:
    """Make the tables, or migrate them. The caller holds a writing transaction and commits it.

    Something is written in any case: to SQLite a read-only file is fine until then.

    Raises:
        StoreError: as `check_ours`.
    """
    version = check_ours(connection, path)
    for statement in _steps_from(version) if version else _TABLES:
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")


def _steps_from(version: int) -> tuple[str, ...]:
    return tuple(statement for step in range(version, VERSION) for statement in _MIGRATIONS[step])


def _is_empty(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None


def _value(connection: sqlite3.Connection, pragma: str) -> int:
    value: int = connection.execute(f"PRAGMA {pragma}").fetchone()[0]
    return value
