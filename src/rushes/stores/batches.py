"""Batches: what was asked once for many jobs. The jobs themselves lie in the job store."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rushes.errors import IdempotencyConflict, TooManyBatches, UnknownBatch
from rushes.stores.job_ids import next_job_id
from rushes.stores.sqlite_database import Database
from rushes.types import Json

RETRY_S = 60.0
_OPEN = "num_rows < total AND cancelled_at IS NULL"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenBatch:
    """What of a batch is small.

    Attributes:
        total: jobs that it is to have.
        num_rows: the first so many rows have their job, or an error.
    """

    id: str
    key_id: str
    tenant: str
    created_at: float
    total: int
    num_rows: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRecord(OpenBatch):
    """Attributes:
    spec: as it was asked.
    idempotency_key: the same key and spec again is the same batch.
    cancelled_at: when somebody did not want the rest of them any more.
    """

    spec: Mapping[str, Json]
    cancelled_at: float | None = None
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRow:
    """A row, from 1, and its job; or why it has none."""

    number: int
    job_id: str | None
    error: str | None


class Batches:
    """Durable. Times are seconds since the epoch. Another tenant's batch is an unknown one."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        *,
        key_id: str,
        tenant: str,
        spec: Mapping[str, Json],
        total: int,
        now: float,
        idempotency_key: str | None = None,
        most_open: int | None = None,
    ) -> BatchRecord:
        """A new batch, or the tenant's earlier one with the same key.

        Args:
            most_open: batches that the tenant may have of which rows are still to be queued; None for any.

        Raises:
            IdempotencyConflict: the same key with another spec.
            TooManyBatches: nothing is made.
        """
        with self._database.write() as connection:
            if idempotency_key is not None and (
                earlier := _earlier(connection, tenant, idempotency_key, spec)
            ):
                return earlier
            if most_open is not None:
                _check_open(connection, tenant, most_open)
            last: str | None = connection.execute("SELECT max(id) FROM batches").fetchone()[0]
            batch_id = "batch_" + next_job_id(last and last.removeprefix("batch_"), now)
            connection.execute(
                "INSERT INTO batches (id, key_id, tenant, created_at, spec, total, idempotency_key)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (batch_id, key_id, tenant, now, json.dumps(spec), total, idempotency_key),
            )
            return _get(connection, batch_id, tenant)

    def unfinished(self) -> Sequence[OpenBatch]:
        """Of all tenants, oldest first: those of which rows are still to be queued."""
        return self._some(_OPEN)

    def cut_short(self) -> Sequence[OpenBatch]:
        """The same: those that were cancelled before all of their rows were queued."""
        return self._some("num_rows < total AND cancelled_at IS NOT NULL")

    def _some(self, condition: str) -> Sequence[OpenBatch]:
        columns = "id, key_id, tenant, created_at, total, num_rows"
        query = f"SELECT {columns} FROM batches WHERE {condition} ORDER BY id"
        with self._database.read() as connection:
            return tuple(OpenBatch(**dict(row)) for row in connection.execute(query).fetchall())

    def add_row(
        self, batch_id: str, number: int, *, job_id: str | None = None, error: str | None = None
    ) -> bool:
        """The row has its job, or can have none. Rows come in order; the same one again changes nothing.

        Returns whether the batch is still wanted. It is asked in the same transaction, so that of a batch
        that is being cancelled either `rows` tells this one after `cancel`, or this tells False.
        """
        with self._database.write() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO batch_rows (batch_id, number, job_id, error) VALUES (?, ?, ?, ?)",
                (batch_id, number, job_id, error),
            )
            connection.execute(
                "UPDATE batches SET num_rows = max(num_rows, ?) WHERE id = ?", (number, batch_id)
            )
            query = "SELECT 1 FROM batches WHERE id = ? AND cancelled_at IS NULL"
            return connection.execute(query, (batch_id,)).fetchone() is not None

    def rows(self, batch_id: str, *, after: int = 0, limit: int | None = None) -> Sequence[BatchRow]:
        """Those behind number `after` that were queued, in order."""
        query = """
            SELECT number, job_id, error FROM batch_rows WHERE batch_id = ? AND number > ?
            ORDER BY number LIMIT ?
        """
        with self._database.read() as connection:
            found = connection.execute(query, (batch_id, after, -1 if limit is None else limit)).fetchall()
        return tuple(BatchRow(**dict(row)) for row in found)

    def failed(self, batch_id: str) -> Sequence[int]:
        """Numbers of the rows that can have no job, in order."""
        query = "SELECT number FROM batch_rows WHERE batch_id = ? AND error IS NOT NULL ORDER BY number"
        with self._database.read() as connection:
            return tuple(row["number"] for row in connection.execute(query, (batch_id,)).fetchall())

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

    def closed_before(self, moment: float) -> Sequence[str]:
        """Ids of those that were asked for or cancelled before, and need no more jobs; oldest first."""
        query = f"""
            SELECT id FROM batches WHERE NOT ({_OPEN}) AND coalesce(cancelled_at, created_at) < ? ORDER BY id
        """
        with self._database.read() as connection:
            return tuple(row["id"] for row in connection.execute(query, (moment,)).fetchall())

    def forget(self, batch_id: str) -> None:
        """With its rows, but for its jobs; nothing where there is none."""
        with self._database.write() as connection:
            connection.execute("DELETE FROM batch_rows WHERE batch_id = ?", (batch_id,))
            connection.execute("DELETE FROM batches WHERE id = ?", (batch_id,))

    def cancel(self, batch_id: str, *, tenant: str | None = None, now: float) -> BatchRecord:
        """No more jobs are to be made of it; a second time changes nothing. Raises `UnknownBatch`."""
        with self._database.write() as connection:
            _get(connection, batch_id, tenant)
            connection.execute(
                "UPDATE batches SET cancelled_at = ? WHERE id = ? AND cancelled_at IS NULL", (now, batch_id)
            )
            return _get(connection, batch_id, tenant)


def _earlier(
    connection: sqlite3.Connection, tenant: str, idempotency_key: str, spec: Mapping[str, Json]
) -> BatchRecord | None:
    row = connection.execute(
        "SELECT * FROM batches WHERE tenant = ? AND idempotency_key = ?", (tenant, idempotency_key)
    ).fetchone()
    if row is None:
        return None
    record = _record(row)
    if record.spec != json.loads(json.dumps(spec)):
        raise IdempotencyConflict(f"idempotency key {idempotency_key!r} belongs to another batch")
    return record


def _check_open(connection: sqlite3.Connection, tenant: str, most: int) -> None:
    query = f"SELECT count(*) FROM batches WHERE {_OPEN} AND tenant = ?"
    num: int = connection.execute(query, (tenant,)).fetchone()[0]
    if num >= most:
        raise TooManyBatches(
            f"{num} batches of this tenant still wait for their jobs, and it may have {most} at once",
            retry_after_s=RETRY_S,
            limit=most,
            used=num,
            reset_s=RETRY_S,
        )


def _get(connection: sqlite3.Connection, batch_id: str, tenant: str | None) -> BatchRecord:
    row = connection.execute("SELECT * FROM batches WHERE id = ?", (batch_id,)).fetchone()
    if row is None or tenant not in (None, row["tenant"]):
        raise UnknownBatch(f"{batch_id[:80]!r}: no batch has this id")
    return _record(row)


def _record(row: sqlite3.Row) -> BatchRecord:
    return BatchRecord(**{**dict(row), "spec": json.loads(row["spec"])})
