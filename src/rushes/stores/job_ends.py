"""How a job ends, and what its end means for the jobs that wait for it: its twins.

A twin is a queued job whose `twin_of` names an open job, its original, that makes the same clip: nobody
leases it. The original's end settles its twins in the same transaction, so that there is no moment at which
a death could leave one behind. Every function runs inside a transaction.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from rushes.stores.exact_keys import is_for
from rushes.stores.job_rows import Value, add_event, job_row, update_job
from rushes.types import JobStatus, Json

NOBODY: Mapping[str, Value] = {"owner": None, "lease_until": None, "lease_ttl_s": None}
"""Columns of a job that nobody runs."""

_OF_THE_JOB = ("remixed_from", "strength", "preset", "mask")
_OF_THE_CLIP = ("sigma", "similarity")
"""Of `JobRecord.reuse`: at which level latents were taken up for the clip, if any were."""

_OF_THE_SOURCE = (*_OF_THE_CLIP, "steps_saved", "seconds_saved")

_TWINS = "twin_of = ? AND status = 'queued'"


def end_job(
    connection: sqlite3.Connection,
    job_id: str,
    status: JobStatus,
    now: float,
    data: Mapping[str, Json],
    **columns: Value,
) -> None:
    """The job is over, and its last event says so. The caller has made sure that it was not over before."""
    ended: dict[str, Value] = {"status": status, "finished_at": now, "wants_cancel": 0}
    update_job(connection, job_id, **ended, **NOBODY, **columns)
    add_event(connection, job_id, status, now, data)
    if status == "completed":
        _complete_twins(connection, job_id, now)
    else:
        free_twins(connection, job_id, keeps_steps=status == "cancelled")


def fail_job(connection: sqlite3.Connection, job_id: str, now: float, error: str, error_kind: str) -> None:
    """The job is over for this reason."""
    # A file's name in a message may hold what is no Unicode; the reason is written all the same.
    error = error.encode("utf-8", "backslashreplace").decode()
    data = {"error": error, "error_kind": error_kind}
    end_job(connection, job_id, "failed", now, data, error=error, error_kind=error_kind)


def complete_as(
    connection: sqlite3.Connection, row: sqlite3.Row, original: sqlite3.Row, now: float, *, is_in_flight: bool
) -> None:
    """A queued job is completed with the result of another that makes the same clip; it took no device.

    Args:
        is_in_flight: it waited for the other's end.
    """
    seed = json.loads(row["request"])["sampling"]["seed"]
    columns, data = taken(original, now, seed, row["reuse"], is_in_flight=is_in_flight)
    end_job(connection, row["id"], "completed", now, data, **columns)


def taken(
    original: sqlite3.Row, now: float, seed: int, told: str | None, *, is_in_flight: bool
) -> tuple[dict[str, Value], dict[str, Json]]:
    """Columns and the last event's data of a job that takes this one's result.

    Args:
        told: the job's own `reuse`, of which stays what is true wherever its clip comes from.
    """
    own = json.loads(told or "{}")
    reuse = {name: own[name] for name in _OF_THE_JOB if name in own}
    reuse |= _exact(original, is_in_flight=is_in_flight)
    data: dict[str, Json] = {
        "seed": seed,
        "timings": [],
        "forwards": {"conditional": 0, "unconditional": 0},
        "predicted_s": 0.0,
        "reuse": reuse,
        "result": original["result"],
        "actual_s": 0.0,
    }
    text = json.dumps(reuse, sort_keys=True, separators=(",", ":"))
    return {"started_at": now, "result": original["result"], "actual_s": 0.0, "reuse": text}, data


def free_twins(connection: sqlite3.Connection, job_id: str, *, keeps_steps: bool = False) -> None:
    """The job makes nothing for its twins: the first of them is their original from now on.

    Args:
        keeps_steps: the new original goes on from the job's checkpoint, if it asks for the very same.
    """
    twins = _twins(connection, job_id)
    if not twins:
        return
    heir = twins[0]
    update_job(connection, heir["id"], twin_of=None)
    connection.execute(f"UPDATE jobs SET twin_of = ? WHERE {_TWINS}", (heir["id"], job_id))
    job = job_row(connection, job_id)
    if keeps_steps and job["checkpoint"] is not None and job["request"] == heir["request"]:
        update_job(connection, heir["id"], checkpoint=job["checkpoint"])
        update_job(connection, job_id, checkpoint=None)


def disown(connection: sqlite3.Connection, row: sqlite3.Row, identity: str | None) -> None:
    """Where the job's clip is another model's than its key is for, it is nobody else's."""
    key = row["exact_key"]
    if key is not None and identity is not None and not is_for(key, identity):
        free_twins(connection, row["id"])
        update_job(connection, row["id"], exact_key=None)


def overtake(connection: sqlite3.Connection, original: sqlite3.Row, job_id: str) -> None:
    """An original that nobody has begun becomes a twin of `job_id`, with all of its own."""
    connection.execute(
        f"UPDATE jobs SET twin_of = ? WHERE id = ? OR ({_TWINS})", (job_id, original["id"], original["id"])
    )


def without_source(told: str | None, reason: str) -> str:
    """A job's `reuse` when it turned out to begin with noise: nothing was saved."""
    kept = {name: value for name, value in json.loads(told or "{}").items() if name not in _OF_THE_SOURCE}
    return json.dumps({**kept, "kind": "miss", "reason": reason}, sort_keys=True, separators=(",", ":"))


def _complete_twins(connection: sqlite3.Connection, job_id: str, now: float) -> None:
    twins = _twins(connection, job_id)
    if not twins:
        return
    original = job_row(connection, job_id)
    for twin in twins:
        complete_as(connection, twin, original, now, is_in_flight=True)


def _twins(connection: sqlite3.Connection, job_id: str) -> Sequence[sqlite3.Row]:
    """In the order in which they would be leased."""
    query = f"SELECT * FROM jobs WHERE {_TWINS} ORDER BY is_interactive DESC, id"
    return connection.execute(query, (job_id,)).fetchall()


def _exact(original: sqlite3.Row, *, is_in_flight: bool) -> dict[str, Any]:
    """What a job that took this one's result says of it. Who took it from somebody names the first."""
    told = earlier = json.loads(original["reuse"] or "{}")
    if earlier.get("kind") != "exact":
        earlier = {"job_id": original["id"], "saved_s": original["actual_s"]}
    made = {name: told[name] for name in _OF_THE_CLIP if name in told}
    return {
        **made,
        "kind": "exact",
        "is_in_flight": is_in_flight,
        "job_id": earlier["job_id"],
        "saved_s": earlier["saved_s"],
    }
