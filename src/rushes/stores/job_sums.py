"""What a job store in SQLite tells of many jobs: open work, how deep queues are, how promises were kept.

All read columns, never a job's JSON; admission asks at every submission.
"""

from __future__ import annotations

import itertools
import json
import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from rushes.stores.base import Depth, KeptPromise, OpenWork, Tally
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
# A range of the index of keys: behind the prefix stands a digit, and ":" comes after "9".
_TALLIES = """
    SELECT status, count(*) AS jobs, total(predicted_s) AS predicted_s, total(actual_s) AS actual_s FROM jobs
    WHERE tenant = :tenant AND idempotency_key >= :prefix || '0' AND idempotency_key < :prefix || ':'
    AND CAST(substr(idempotency_key, length(:prefix) + 1) AS INTEGER) <= :most
    AND idempotency_key NOT IN (SELECT value FROM json_each(:without))
    GROUP BY status
"""
_QUEUED = "SELECT id, pipeline, is_interactive, twin_of FROM jobs WHERE id = ? AND status = 'queued'"


def _ahead(status: str) -> tuple[str, str]:
    """Of one's own lane, and of the more urgent one: each is a range of an index."""
    count = f"SELECT count(*) FROM jobs WHERE {status} AND twin_of IS NULL AND pipeline = :pipeline"
    return (
        f"{count} AND is_interactive = :is_interactive AND id >= :since AND id < :id",
        f"{count} AND is_interactive > :is_interactive",
    )


_OPEN_AHEAD = _ahead("status IN ('queued', 'running')")
_RUNNING_AHEAD = _ahead("status = 'running'")


def nums_ahead(connection: sqlite3.Connection, job_ids: Sequence[str]) -> list[int]:
    """See `JobStore.nums_ahead`: the open jobs without those that run, since the index of open jobs tells
    without reading any of them, and few run. Takes 0.3 us a job that is ahead of the last one, however many
    are asked for: each is counted from the one before it."""
    makers = [_maker(connection, job_id) for job_id in job_ids]
    ahead: dict[str, int] = {}
    (own, urgent), (own_running, urgent_running) = _OPEN_AHEAD, _RUNNING_AHEAD
    for (pipeline, is_interactive), ids in _queues(filter(None, makers)).items():
        queue = {"pipeline": pipeline, "is_interactive": is_interactive}
        num = _count(connection, urgent, queue) - _count(connection, urgent_running, queue)
        for since, job_id in itertools.pairwise(("", *ids)):
            between = {**queue, "since": since, "id": job_id}
            num += _count(connection, own, between) - _count(connection, own_running, between)
            ahead[job_id] = num
    return [0 if maker is None else ahead[maker["id"]] for maker in makers]


def _maker(connection: sqlite3.Connection, job_id: str) -> sqlite3.Row | None:
    """The queued job that makes a queued job's clip: itself, or of a twin its original."""
    row: sqlite3.Row | None = connection.execute(_QUEUED, (job_id,)).fetchone()
    return row if row is None or row["twin_of"] is None else _maker(connection, row["twin_of"])


def _queues(rows: Iterable[sqlite3.Row]) -> dict[tuple[str, int], list[str]]:
    """Ids by queue, in its order."""
    queues: dict[tuple[str, int], list[str]] = defaultdict(list)
    for row in rows:
        queues[row["pipeline"], row["is_interactive"]].append(row["id"])
    return {queue: sorted(set(ids)) for queue, ids in queues.items()}


def _count(connection: sqlite3.Connection, query: str, values: dict[str, Any]) -> int:
    count: int = connection.execute(query, values).fetchone()[0]
    return count


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


def tallies(
    connection: sqlite3.Connection, tenant: str, prefix: str, most: int, without: Collection[int]
) -> tuple[Tally, ...]:
    """See `JobStore.tallies`. Takes 3 us a job."""
    keys = json.dumps([f"{prefix}{number}" for number in without])
    values = {"tenant": tenant, "prefix": prefix, "most": most, "without": keys}
    return tuple(Tally(**dict(row)) for row in connection.execute(_TALLIES, values))


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
