"""Batches: what was asked once for many jobs. The jobs themselves lie in the job store."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rushes.errors import UnknownBatch
from rushes.stores.job_ids import next_job_id
from rushes.stores.sqlite_database import Database
from rushes.types import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRecord:
    """Attributes:
    spec: as it was asked.
    total: jobs that it is to have.
    cancelled_at: when somebody did not want the rest of them any more.
    """

    id: str
    key_id: str
    tenant: str
    created_at: float
    spec: Mapping[str, Json]
    total: int
    cancelled_at: float | None = None


class Batches:
    """Durable. Times are seconds since the epoch. Another tenant's batch is an unknown one."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self, *, key_id: str, tenant: str, spec: Mapping[str, Json], total: int, now: float
    ) -> BatchRecord:
        with self._database.write() as connection:
            last: str | None = connection.execute("SELECT max(id) FROM batches").fetchone()[0]
            batch_id = "batch_" + next_job_id(last and last.removeprefix("batch_"), now)
            connection.execute(
                "INSERT INTO batches (id, key_id, tenant, created_at, spec, total) VALUES (?, ?, ?, ?, ?, ?)",
                (batch_id, key_id, tenant, now, json.dumps(spec), total),
            )
            return _get(connection, batch_id, tenant)

    def get(self, batch_id: str, *, tenant: str | None = None) -> BatchRecord:
        """None: whose it is does not matter. Raises `UnknownBatch`."""
        with self._database.read() as connection:
            return _get(connection, batch_id, tenant)

    def list(
        self, *, tenant: str | None = None, limit: int = 100, after: str | None = None
    ) -> Sequence[BatchRecord]:
        """Newest first; `after` is the id of the last one of the page before."""
        query = """
            SELECT * FROM batches WHERE (:tenant IS NULL OR tenant = :tenant)
            AND (:after IS NULL OR id < :after) ORDER BY id DESC LIMIT :limit
        """
        with self._database.read() as connection:
            rows = connection.execute(query, {"tenant": tenant, "after": after, "limit": limit}).fetchall()
        return tuple(_record(row) for row in rows)

    def cancel(self, batch_id: str, *, tenant: str | None = None, now: float) -> BatchRecord:
        """No more jobs are to be made of it; a second time changes nothing. Raises `UnknownBatch`."""
        with self._database.write() as connection:
            _get(connection, batch_id, tenant)
            connection.execute(
                "UPDATE batches SET cancelled_at = ? WHERE id = ? AND cancelled_at IS NULL", (now, batch_id)
            )
            return _get(connection, batch_id, tenant)


def _get(connection: sqlite3.Connection, batch_id: str, tenant: str | None) -> BatchRecord:
    row = connection.execute("SELECT * FROM batches WHERE id = ?", (batch_id,)).fetchone()
    if row is None or tenant not in (None, row["tenant"]):
        raise UnknownBatch(f"{batch_id[:80]!r}: no batch has this id")
    return _record(row)


def _record(row: sqlite3.Row) -> BatchRecord:
    return BatchRecord(**{**dict(row), "spec": json.loads(row["spec"])})
