"""What a job store in SQLite tells of many jobs: open work, how deep queues are, how promises were kept.

All read columns, never a job's JSON; admission asks at every submission.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from rushes.stores.base import Depth, KeptPromise, OpenWork
from rushes.types import Lane

_WORK = (
    "SELECT pipeline, is_interactive, tenant, coalesce(sum(predicted_s), 0.0) AS seconds FROM jobs"
    " WHERE status IN ('queued', 'running') AND twin_of IS NULL GROUP BY pipeline, is_interactive, tenant"
)
_UNKNOWN = (
    "SELECT pipeline, is_interactive, tenant, id FROM jobs"
    " WHERE status IN ('queued', 'running') AND twin_of IS NULL AND predicted_s IS NULL"
)
_DEPTHS = (
    "SELECT pipeline, is_interactive, status, count(*) AS jobs, min(created_at) AS oldest_at"
    " FROM jobs WHERE status IN ('queued', 'running') AND twin_of IS NULL"
    " GROUP BY pipeline, is_interactive, status"
)
_KEPT = (
    "SELECT id, pipeline, is_interactive, created_at, eta_s, finished_at FROM jobs"
    " WHERE status = 'completed' AND twin_of IS NULL AND finished_at >= ? AND eta_s > 0"
    " ORDER BY finished_at DESC, id DESC LIMIT ?"
)


def _ahead(status: str) -> tuple[str, str]:
    """Of one's own lane, and of the more urgent one: each is a range of an index."""
    count = f"SELECT count(*) FROM jobs WHERE {status} AND twin_of IS NULL AND pipeline = :pipeline"
    return (
        f"{count} AND is_interactive = :is_interactive AND id < :id",
        f"{count} AND is_interactive > :is_interactive",
    )


_OPEN_AHEAD = _ahead("status IN ('queued', 'running')")
_RUNNING_AHEAD = _ahead("status = 'running'")


def num_ahead(connection: sqlite3.Connection, row: sqlite3.Row) -> int:
    """Queued jobs before this queued one: the open ones without those that run, since the index of open jobs
    tells without reading any of them, and few run. Takes 0.3 us a job that is ahead."""
    values = {name: row[name] for name in ("pipeline", "is_interactive", "id")}

    def count(queries: tuple[str, str]) -> int:
        return sum(connection.execute(query, values).fetchone()[0] for query in queries)

    return count(_OPEN_AHEAD) - count(_RUNNING_AHEAD)


def open_work(connection: sqlite3.Connection) -> tuple[OpenWork, ...]:
    """See `JobStore.open_work`."""
    unknown: dict[tuple[str, int, str], list[str]] = {}
    for row in connection.execute(_UNKNOWN):
        unknown.setdefault((row["pipeline"], row["is_interactive"], row["tenant"]), []).append(row["id"])
    return tuple(
        OpenWork(
            pipeline=row["pipeline"],
            lane=_lane(row),
            tenant=row["tenant"],
            seconds=row["seconds"],
            unknown=tuple(unknown.get((row["pipeline"], row["is_interactive"], row["tenant"]), ())),
        )
        for row in connection.execute(_WORK)
    )


def depths(connection: sqlite3.Connection) -> tuple[Depth, ...]:
    """See `JobStore.depths`."""
    return tuple(
        Depth(
            pipeline=row["pipeline"],
            lane=_lane(row),
            status=row["status"],
            jobs=row["jobs"],
            oldest_at=row["oldest_at"],
        )
        for row in connection.execute(_DEPTHS)
    )


def kept_promises(connection: sqlite3.Connection, since: float, limit: int) -> Sequence[KeptPromise]:
    """See `JobStore.kept_promises`."""
    rows = connection.execute(_KEPT, (since, limit)).fetchall()
    return tuple(
        KeptPromise(
            job_id=row["id"],
            pipeline=row["pipeline"],
            lane=_lane(row),
            created_at=row["created_at"],
            eta_s=row["eta_s"],
            finished_at=row["finished_at"],
        )
        for row in reversed(rows)
    )


def _lane(row: sqlite3.Row) -> Lane:
    return "interactive" if row["is_interactive"] else "batch"
