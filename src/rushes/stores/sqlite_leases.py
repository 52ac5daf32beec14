"""Who may run a job: taking, prolonging and losing leases. Every function runs inside a transaction.

A lease is a job's row with status "running", an owner, a token and the time when it runs out. Running out
only allows others to take it: whoever holds the latest token may go on until then.

What a clock that jumps can do: back by hours, and leases seem to last for hours; `shorten` cuts them to their
length again, so a dead worker's job is late by one length at most. Forward by hours, and every lease seems
to have run out: a job whose worker does not send its heartbeat before another worker asks for jobs changes
hands, which counts as a death, and the token keeps the first from writing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence

from rushes.errors import LeaseLost, StoreError
from rushes.stores.base import MAX_DEATHS, Heartbeat, JobRecord, Lease
from rushes.stores.job_ends import NOBODY, end_job, fail_job
from rushes.stores.job_rows import job_record, job_row, leased_row, marks, update_job
from rushes.types import Lane

ANY_BYTES = 2**63 - 1
"""The largest number that a column holds."""


def shorten(connection: sqlite3.Connection, now: float) -> None:
    """No lease runs out later than if it were prolonged now."""
    connection.execute(
        "UPDATE jobs SET lease_until = ?1 + lease_ttl_s"
        " WHERE status = 'running' AND lease_until > ?1 + lease_ttl_s",
        (now,),
    )


def takeable(
    connection: sqlite3.Connection,
    pipelines: Collection[str],
    lanes: Collection[Lane],
    now: float,
    limit: int,
    most_bytes: int | None,
) -> Sequence[sqlite3.Row]:
    """Jobs that nobody holds or whose lease ran out, that wait for no other and do not need more: interactive
    first, then oldest first."""
    is_interactive = {lane == "interactive" for lane in lanes} or {True, False}
    return connection.execute(
        "SELECT * FROM jobs WHERE status IN ('queued', 'running') AND twin_of IS NULL"
        " AND (status = 'queued' OR lease_until <= ?)"
        f" AND pipeline IN ({marks(pipelines)}) AND is_interactive IN ({marks(is_interactive)})"
        " AND (needs_bytes IS NULL OR needs_bytes <= ?)"
        " ORDER BY is_interactive DESC, id LIMIT ?",
        (now, *pipelines, *is_interactive, ANY_BYTES if most_bytes is None else most_bytes, limit),
    ).fetchall()


def may_find(
    connection: sqlite3.Connection,
    pipelines: Collection[str],
    lanes: Collection[Lane],
    now: float,
    most_bytes: int | None,
) -> bool:
    """Whether there is a takeable job, or a lease to `shorten`."""
    if takeable(connection, pipelines, lanes, now, 1, most_bytes):
        return True
    too_long = "SELECT 1 FROM jobs WHERE status = 'running' AND lease_until > ? + lease_ttl_s LIMIT 1"
    return connection.execute(too_long, (now,)).fetchone() is not None


def has_run_out(row: sqlite3.Row, now: float) -> bool:
    return bool(row["status"] == "running" and row["lease_until"] <= now)


def take(
    connection: sqlite3.Connection, row: sqlite3.Row, owner: str, now: float, ttl_s: float
) -> JobRecord | None:
    """Give a takeable job to `owner` under the next token; None when it ended instead, because its worker
    died with a cancellation unanswered or for the last time, or because it cannot be read."""
    job_id, deaths = row["id"], row["deaths"]
    if row["status"] == "running":
        deaths += 1
        update_job(connection, job_id, deaths=deaths)
        if row["wants_cancel"]:
            end_job(connection, job_id, "cancelled", now, {})
            return None
        if deaths >= MAX_DEATHS:
            reason = f"the worker died {deaths} times while it ran this job; the last was {row['owner']}"
            fail_job(connection, job_id, now, reason, "WorkerDied")
            return None
    update_job(
        connection,
        job_id,
        status="running",
        owner=owner,
        token=row["token"] + 1,
        lease_until=now + ttl_s,
        lease_ttl_s=ttl_s,
        started_at=now if row["started_at"] is None else row["started_at"],
    )
    try:
        return job_record(job_row(connection, job_id))
    except StoreError as error:  # those behind it would wait for ever
        fail_job(connection, job_id, now, str(error), "StoreError")
        return None


def queue_again(connection: sqlite3.Connection, job_id: str) -> None:
    """A running job waits for a worker again."""
    update_job(connection, job_id, status="queued", **NOBODY)


def prolong(connection: sqlite3.Connection, lease: Lease, now: float, ttl_s: float) -> None:
    """Nothing where somebody else has the job by now."""
    connection.execute(
        "UPDATE jobs SET lease_until = ?, lease_ttl_s = ?"
        " WHERE id = ? AND status = 'running' AND token = ? AND owner = ?",
        (now + ttl_s, ttl_s, lease.job_id, lease.token, lease.owner),
    )


def hear(connection: sqlite3.Connection, leases: Collection[Lease]) -> Heartbeat:
    """What became of these leases."""
    lost, cancelled = set(), set()
    for lease in leases:
        try:
            if leased_row(connection, lease)["wants_cancel"]:
                cancelled.add(lease.job_id)
        except LeaseLost:
            lost.add(lease.job_id)
    return Heartbeat(lost=frozenset(lost), cancelled=frozenset(cancelled))
