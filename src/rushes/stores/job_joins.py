"""Never make the same clip twice: a new job takes the result of an earlier one, or waits for it.

Jobs of one tenant and `exact_key` make the same clip, bit for bit. Every function runs inside a transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from rushes.errors import IdempotencyConflict
from rushes.stores.base import JobRecord
from rushes.stores.job_ends import overtake, taken
from rushes.stores.job_rows import Value, insert_event, insert_job, job_row, update_job
from rushes.stores.request_json import to_json
from rushes.types import GenerateRequest, JobOptions

_SAME = "SELECT * FROM jobs WHERE tenant = ? AND exact_key = ?"
_COMPLETED = f"{_SAME} AND status = 'completed' AND result <> '' ORDER BY id DESC LIMIT 1"
# One that is about to be cancelled would keep its twins waiting for nothing.
_OPEN = (
    f"{_SAME} AND status IN ('queued', 'running') AND twin_of IS NULL AND NOT wants_cancel"
    " ORDER BY id LIMIT 1"
)


def original_of(connection: sqlite3.Connection, tenant: str, exact_key: str | None) -> sqlite3.Row | None:
    """The job whose result is that of another of this key: a completed one, else an open one that waits for
    none."""
    if exact_key is None:
        return None
    completed = completed_of(connection, tenant, exact_key)
    if completed is not None:
        return completed
    row: sqlite3.Row | None = connection.execute(_OPEN, (tenant, exact_key)).fetchone()
    return row


def completed_of(connection: sqlite3.Connection, tenant: str, exact_key: str) -> sqlite3.Row | None:
    """The latest completed job of this key."""
    row: sqlite3.Row | None = connection.execute(_COMPLETED, (tenant, exact_key)).fetchone()
    return row


def same_call(
    connection: sqlite3.Connection, request: GenerateRequest, options: JobOptions
) -> sqlite3.Row | None:
    """The job that this call made before. Raises `IdempotencyConflict` when another call used its key."""
    key = options.idempotency_key
    if key is None:
        return None
    row: sqlite3.Row | None = connection.execute(
        "SELECT * FROM jobs WHERE tenant = ? AND idempotency_key = ?", (options.tenant, key)
    ).fetchone()
    if row is not None and row["asked"] != to_json(request):
        raise IdempotencyConflict(f"idempotency key {key!r}: was used for another request, job {row['id']}")
    return row


def is_overtaken(original: sqlite3.Row, *, is_interactive: bool) -> bool:
    """Whether a new job runs in the original's place: nobody has begun that, and it is not urgent."""
    is_waiting = original["status"] == "queued" and original["token"] == 0 and original["checkpoint"] is None
    return bool(is_interactive and not original["is_interactive"] and is_waiting)


def insert_hit(
    connection: sqlite3.Connection,
    job_id: str,
    request: GenerateRequest,
    options: JobOptions,
    original: sqlite3.Row,
    now: float,
    columns: Mapping[str, Value],
) -> JobRecord:
    """A new job that is completed with a completed job's result: three rows, and nothing is read."""
    result, data = taken(
        original, now, request.sampling.seed, _text(columns.get("reuse")), is_in_flight=False
    )
    insert_job(
        connection,
        job_id,
        **{**columns, **result, "status": "completed", "created_at": now, "finished_at": now},
    )
    insert_event(connection, job_id, 1, "queued", now, {"predicted_s": None, "eta_s": None})
    insert_event(connection, job_id, 2, "completed", now, data)
    return JobRecord(
        id=job_id,
        status="completed",
        request=request,
        options=options,
        created_at=now,
        started_at=now,
        finished_at=now,
        actual_s=0.0,
        result=original["result"],
        reuse=str(result["reuse"]),
    )


def _text(value: Value) -> str | None:
    return None if value is None else str(value)


def join(connection: sqlite3.Connection, job_id: str, original: sqlite3.Row) -> None:
    """Let a job that was queued just now, in this transaction, wait for an open one."""
    row = job_row(connection, job_id)
    if is_overtaken(original, is_interactive=bool(row["is_interactive"])):
        overtake(connection, original, job_id)
    else:
        update_job(connection, job_id, twin_of=original["id"])
