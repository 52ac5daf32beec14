"""Rows of a job store in SQLite: jobs and their events. Every function runs inside a transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Mapping, Sequence

from rushes.errors import LeaseLost, StoreError, UnknownJob
from rushes.stores.base import JobRecord, Lease, Told
from rushes.stores.request_json import from_json, to_json
from rushes.types import GenerateRequest, JobEvent, JobOptions, Json

Value = None | int | float | str

_SAME_NAME = (
    "id",
    "status",
    "created_at",
    "started_at",
    "finished_at",
    "predicted_s",
    "eta_s",
    "actual_s",
    "token",
    "deaths",
    "checkpoint",
    "result",
    "error",
    "error_kind",
    "reuse",
    "twin_of",
)


_NEXT_NUMBER = "SELECT coalesce(max(number), 0) + 1 FROM events WHERE job_id = ?"
_INSERT_EVENT = "INSERT INTO events (job_id, number, kind, at, data) VALUES (?, ?, ?, ?, ?)"


def marks(values: Collection[object]) -> str:
    """SQL's place-holders for as many values."""
    return ", ".join("?" for _ in values)


def job_row(connection: sqlite3.Connection, job_id: str) -> sqlite3.Row:
    """Raises `UnknownJob`."""
    row: sqlite3.Row | None = connection.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
    if row is None:
        raise UnknownJob(f"there is no job {job_id!r}")
    return row


def job_record(row: sqlite3.Row) -> JobRecord:
    """Raises `StoreError` when the row's JSON is not what was written."""
    try:
        request, options = from_json(GenerateRequest, row["request"]), from_json(JobOptions, row["options"])
    except StoreError as error:
        raise StoreError(f"job {row['id']}: {error}") from error
    same = {name: row[name] for name in _SAME_NAME}
    return JobRecord(request=request, options=options, wants_cancel=bool(row["wants_cancel"]), **same)


def insert_job(connection: sqlite3.Connection, job_id: str, **columns: Value) -> None:
    """A job, queued unless the columns say otherwise."""
    columns = {"id": job_id, "status": "queued", **columns}
    query = f"INSERT INTO jobs ({', '.join(columns)}) VALUES ({marks(columns)})"
    connection.execute(query, tuple(columns.values()))


def job_columns(request: GenerateRequest, options: JobOptions) -> dict[str, Value]:
    return {
        **request_columns(request),
        "tenant": options.tenant,
        "idempotency_key": options.idempotency_key,
        "options": to_json(options),
        "is_interactive": options.lane == "interactive",
    }


def request_columns(request: GenerateRequest) -> dict[str, Value]:
    return {"request": to_json(request), "pipeline": request.pipeline}


def update_job(connection: sqlite3.Connection, job_id: str, **columns: Value) -> None:
    sets = ", ".join(f"{name} = ?" for name in columns)
    connection.execute(f"UPDATE jobs SET {sets} WHERE id = ?", (*columns.values(), job_id))


def leased_row(connection: sqlite3.Connection, lease: Lease) -> sqlite3.Row:
    """The running job that the lease is for. Raises `LeaseLost`.

    The token decides, never the clock: a lease that ran out is good until somebody else takes the job.
    """
    row = connection.execute("SELECT * FROM jobs WHERE id = ?", (lease.job_id,)).fetchone()
    if row is not None and is_held(row, lease):
        return row  # type: ignore[no-any-return]
    now = "it is gone" if row is None else f"it is {row['status']} now, under token {row['token']}"
    raise LeaseLost(f"job {lease.job_id}: {lease.owner} no longer holds it by token {lease.token}: {now}")


def is_held(row: sqlite3.Row, lease: Lease) -> bool:
    return (row["status"], row["token"], row["owner"]) == ("running", lease.token, lease.owner)


def has_finished(connection: sqlite3.Connection, lease: Lease, result: str) -> bool:
    """Whether this very lease has finished its job with this very result before."""
    query = "SELECT 1 FROM jobs WHERE id = ? AND token = ? AND status = 'completed' AND result = ?"
    return connection.execute(query, (lease.job_id, lease.token, result)).fetchone() is not None


def add_event(
    connection: sqlite3.Connection, job_id: str, kind: str, now: float, data: Mapping[str, Json]
) -> JobEvent:
    """The job's next event. The writing transaction makes numbers free of gaps, in the order of commits."""
    number = connection.execute(_NEXT_NUMBER, (job_id,)).fetchone()[0]
    return insert_event(connection, job_id, number, kind, now, data)


def add_events(connection: sqlite3.Connection, job_id: str, told: Sequence[Told], now: float) -> None:
    """The same of several events of one moment, by kind and data."""
    if not told:
        return
    first = connection.execute(_NEXT_NUMBER, (job_id,)).fetchone()[0]
    for number, (kind, data) in enumerate(told, first):
        connection.execute(_INSERT_EVENT, (job_id, number, kind, now, _event_json(kind, data)))


def insert_event(
    connection: sqlite3.Connection, job_id: str, number: int, kind: str, now: float, data: Mapping[str, Json]
) -> JobEvent:
    """The event of a job whose next number the caller knows."""
    text = _event_json(kind, data)
    connection.execute(_INSERT_EVENT, (job_id, number, kind, now, text))
    return JobEvent(job_id=job_id, number=number, kind=kind, at=now, data=json.loads(text))


def job_event(row: sqlite3.Row) -> JobEvent:
    return JobEvent(
        job_id=row["job_id"],
        number=row["number"],
        kind=row["kind"],
        at=row["at"],
        data=json.loads(row["data"]),
    )


def _event_json(kind: str, data: Mapping[str, Json]) -> str:
    try:
        return json.dumps(data, default=_plain, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise StoreError(f"event {kind!r}: its data cannot be written as JSON: {error}") from error


def _plain(value: object) -> object:
    """Mappings and sequences that `json` does not know by itself."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence):
        return list(value)
    raise TypeError(f"{type(value).__name__} is no JSON value")
