"""Forgetting ended jobs. A file that several jobs name goes with the last of them.

Every function runs inside a transaction; the caller deletes the files behind it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

from rushes.errors import StoreError
from rushes.stores.base import Swept
from rushes.stores.job_rows import job_row
from rushes.types import FINAL

JOBS_AT_A_TIME = 500
"""That a sweep forgets in one transaction."""

_ENDED = "status IN ('completed', 'failed', 'cancelled')"
_SAVED_AND_ENDED = f"checkpoint IS NOT NULL AND {_ENDED}"


def forget(connection: sqlite3.Connection, job_id: str) -> Swept:
    """See `JobStore.forget`."""
    row = job_row(connection, job_id)
    if row["status"] not in FINAL:
        raise StoreError(f"job {job_id}: is {row['status']}, and only an ended job can be forgotten")
    results = _delete(connection, [row])
    checkpoints = tuple(filter(None, [row["checkpoint"]]))
    return Swept(jobs=1, checkpoints=checkpoints, results=results, job_ids=(job_id,))


def sweep_some(connection: sqlite3.Connection, before: float, max_jobs: int) -> Swept:
    """The oldest jobs of those that ended before, or that are too many; few enough that nobody waits long."""
    left = connection.execute(f"SELECT checkpoint FROM jobs WHERE {_SAVED_AND_ENDED}").fetchall()
    connection.execute(f"UPDATE jobs SET checkpoint = NULL WHERE {_SAVED_AND_ENDED}")
    num_ended = connection.execute(f"SELECT count(*) FROM jobs WHERE {_ENDED}").fetchone()[0]
    old = connection.execute(
        f"SELECT id, result, finished_at <= ? AS is_old FROM jobs WHERE {_ENDED}"
        " ORDER BY finished_at, id LIMIT ?",
        (before, JOBS_AT_A_TIME),
    ).fetchall()
    gone = [row for index, row in enumerate(old) if row["is_old"] or index < num_ended - max_jobs]
    return Swept(
        jobs=len(gone),
        checkpoints=tuple(row["checkpoint"] for row in left),
        results=_delete(connection, gone),
        job_ids=tuple(row["id"] for row in gone),
    )


def joined(parts: Iterable[Swept]) -> Swept:
    """What several sweeps took out."""
    parts = tuple(parts)
    return Swept(
        jobs=sum(part.jobs for part in parts),
        checkpoints=tuple(name for part in parts for name in part.checkpoints),
        results=tuple(name for part in parts for name in part.results),
        job_ids=tuple(job_id for part in parts for job_id in part.job_ids),
    )


def is_named(connection: sqlite3.Connection, result: str) -> bool:
    """Whether any job names this result."""
    return connection.execute("SELECT 1 FROM jobs WHERE result = ? LIMIT 1", (result,)).fetchone() is not None


def _delete(connection: sqlite3.Connection, gone: Sequence[sqlite3.Row]) -> tuple[str, ...]:
    """Results that no job names any more."""
    ids = [(row["id"],) for row in gone]
    connection.executemany("DELETE FROM events WHERE job_id = ?", ids)
    connection.executemany("DELETE FROM jobs WHERE id = ?", ids)
    results = dict.fromkeys(row["result"] for row in gone if row["result"] is not None)
    return tuple(result for result in results if not is_named(connection, result))
