"""Never make the same clip twice: a new job takes the result of an earlier one, or waits for it.

Jobs of one tenant and `exact_key` make the same clip, bit for bit. Every function runs inside a transaction.
"""

from __future__ import annotations

import sqlite3

from rushes.errors import IdempotencyConflict
from rushes.stores.job_ends import complete_as, overtake
from rushes.stores.job_rows import job_row, update_job
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
    for query in (_COMPLETED, _OPEN):
        row: sqlite3.Row | None = connection.execute(query, (tenant, exact_key)).fetchone()
        if row is not None:
            return row
    return None


def same_call(
    connection: sqlite3.Connection, request: GenerateRequest, options: JobOptions
) -> sqlite3.Row | None:
    """The job that this call made before. Raises `IdempotencyConflict` when another call used its key."""
    key = options.idempotency_key
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


def join(connection: sqlite3.Connection, job_id: str, original: sqlite3.Row, now: float) -> None:
    """Let a job that was queued just now, in this transaction, take what its original makes."""
    row = job_row(connection, job_id)
    if original["status"] == "completed":
        complete_as(connection, row, original, now, is_in_flight=False)
    elif is_overtaken(original, is_interactive=bool(row["is_interactive"])):
        overtake(connection, original, job_id)
    else:
        update_job(connection, job_id, twin_of=original["id"])
