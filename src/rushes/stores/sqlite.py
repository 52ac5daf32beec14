"""Jobs in an SQLite file: durable, one result each, shared by the threads and processes of one machine."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path

from rushes.errors import StoreError
from rushes.stores import job_joins, job_sums, job_sweeps, sqlite_leases
from rushes.stores.base import (
    Depth,
    Feed,
    Heartbeat,
    JobRecord,
    KeptPromise,
    Lease,
    OpenWork,
    Swept,
    Tally,
    Told,
)
from rushes.stores.job_ends import disown, end_job, fail_job, free_twins, without_source
from rushes.stores.job_ids import next_job_id
from rushes.stores.job_rows import (
    Value,
    add_event,
    add_events,
    has_finished,
    insert_job,
    job_columns,
    job_event,
    job_record,
    job_row,
    leased_row,
    marks,
    request_columns,
    update_job,
)
from rushes.stores.request_json import from_json, to_json
from rushes.stores.sqlite_database import Database
from rushes.stores.sqlite_groups import WriteGroup
from rushes.stores.sqlite_schema import JOBS
from rushes.types import FINAL, GenerateRequest, JobEvent, JobOptions, JobStatus, Json, Lane

log = logging.getLogger(__name__)

TIMEOUT_S = 10.0


class SqliteJobStore:
    """A `JobStore` in one file on a local disk, or in memory for one process; methods are described there.

    Each method is one transaction: done and flushed to the disk when it returns, or not done at all when it
    raises. Only a heartbeat is not flushed: when the power fails, every lease is void anyway. Events are,
    progress too: a reader goes on after the last number that it saw, so a number is never given twice.

    Threads may share a store; a forked child may go on using its parent's, except in memory. Each process
    may have several stores of one file.

    Args:
        path: the file, made when it is missing, with `-wal` and `-shm` beside it; or ":memory:".
        clock: seconds since the epoch; read inside the transaction. It may jump, see `sqlite_leases`.
        timeout_s: how long a method waits for another process's transaction.
        on_write: called when a method of this object has written, on its thread; what others write is not
            told.

    Raises:
        StoreError: the file cannot be used: path and cause in one line.

    Example:
        >>> store = SqliteJobStore(":memory:")
        >>> store.jobs()
        ()
        >>> store.close()
    """

    def __init__(
        self,
        path: str | Path,
        *,
        clock: Callable[[], float] = time.time,
        timeout_s: float = TIMEOUT_S,
        on_write: Callable[[], None] = lambda: None,
    ) -> None:
        self._database = Database(path, JOBS, timeout_s=timeout_s, on_write=on_write)
        self._writes = WriteGroup(self._database)
        self._clock = clock
        self._damaged: set[str] = set()

    def create(
        self,
        request: GenerateRequest,
        options: JobOptions,
        *,
        predicted_s: float | None = None,
        eta_s: float | None = None,
        changes: Sequence[tuple[str, int, int]] = (),
        asked: GenerateRequest | None = None,
        needs_bytes: int | None = None,
        exact_key: str | None = None,
        reuse: str | None = None,
        joins: bool = False,
    ) -> JobRecord:
        asked = asked or request
        if replace(asked, source=None) != replace(request, source=None):
            exact_key = None  # another clip than the key stands for
        times = {"predicted_s": predicted_s, "eta_s": eta_s}
        # Made before the transaction, which keeps other writers waiting.
        columns = job_columns(request, options)
        columns |= {"asked": columns["request"] if asked == request else to_json(asked), "reuse": reuse}
        columns |= {"needs_bytes": needs_bytes, "exact_key": exact_key}

        def work(connection: sqlite3.Connection) -> JobRecord:
            if earlier := job_joins.same_call(connection, asked, options):
                return job_record(earlier)
            original = job_joins.original_of(connection, options.tenant, exact_key if joins else None)
            now = self._clock()
            job_id = next_job_id(connection.execute("SELECT max(id) FROM jobs").fetchone()[0], now)
            if original is not None and original["status"] == "completed":
                return job_joins.insert_hit(connection, job_id, request, options, original, now, columns)
            insert_job(connection, job_id, created_at=now, **columns, **times)
            add_event(connection, job_id, "queued", now, times)
            if changes:
                add_event(connection, job_id, "degraded", now, {"changes": changes})
            if original is not None:
                job_joins.join(connection, job_id, original)
            return job_record(job_row(connection, job_id))

        return self._writes.run(work)

    def reuse_exact(
        self, request: GenerateRequest, options: JobOptions, *, exact_key: str
    ) -> JobRecord | None:
        with self._database.read() as connection:
            original = job_joins.original_of(connection, options.tenant, exact_key)
        is_urgent = options.lane == "interactive"
        if original is None or job_joins.is_overtaken(original, is_interactive=is_urgent):
            return None
        return self.create(request, options, exact_key=exact_key, joins=True)

    def made_as(self, tenant: str, exact_key: str) -> JobRecord | None:
        with self._database.read() as connection:
            row = job_joins.completed_of(connection, tenant, exact_key)
            return None if row is None else job_record(row)

    def disown(self, result: str) -> None:
        with self._database.write() as connection:
            connection.execute("UPDATE jobs SET exact_key = NULL WHERE result = ?", (result,))

    def earlier(self, asked: GenerateRequest, options: JobOptions) -> JobRecord | None:
        with self._database.read() as connection:
            row = job_joins.same_call(connection, asked, options)
            return None if row is None else job_record(row)

    def asked(self, job_id: str) -> GenerateRequest:
        with self._database.read() as connection:
            asked: GenerateRequest = from_json(GenerateRequest, job_row(connection, job_id)["asked"])
        return asked

    def get(self, job_id: str) -> JobRecord:
        with self._database.read() as connection:
            return job_record(job_row(connection, job_id))

    def jobs(
        self,
        *,
        tenant: str | None = None,
        statuses: Collection[JobStatus] = (),
        limit: int = 100,
        after: str | None = None,
        oldest_first: bool = False,
    ) -> Sequence[JobRecord]:
        condition, values = _condition(tenant, statuses, after, oldest_first=oldest_first)
        order = "ASC" if oldest_first else "DESC"
        query = f"SELECT * FROM jobs WHERE {condition} ORDER BY id {order}"
        with self._database.read() as connection, closing(connection.execute(query, values)) as rows:
            return tuple(islice(filter(None, map(self._readable, rows)), limit))

    def _readable(self, row: sqlite3.Row) -> JobRecord | None:
        """None for a damaged one, which must not take a list with it; said once."""
        try:
            return job_record(row)
        except StoreError as error:
            if row["id"] not in self._damaged:
                self._damaged.add(row["id"])
                log.error("left out of lists: %s", error)
            return None

    def count(self, *, tenant: str | None = None, statuses: Collection[JobStatus] = ()) -> int:
        condition, values = _condition(tenant, statuses)
        query = f"SELECT count(*) FROM jobs WHERE {condition}"
        with self._database.read() as connection:
            num: int = connection.execute(query, values).fetchone()[0]
        return num

    def depths(self) -> Sequence[Depth]:
        with self._database.read() as connection:
            return job_sums.depths(connection)

    def lease(
        self,
        owner: str,
        *,
        pipelines: Collection[str],
        limit: int,
        ttl_s: float,
        lanes: Collection[Lane] = (),
        most_bytes: int | None = None,
    ) -> Sequence[JobRecord]:
        assert ttl_s > 0
        assert limit >= 0
        taken: list[JobRecord] = []
        with self._database.read() as connection:  # most looks find nothing, and need not wait for a writer
            if not sqlite_leases.may_find(connection, pipelines, lanes, self._clock(), most_bytes):
                return ()

        def work(connection: sqlite3.Connection) -> None:
            now = self._clock()
            sqlite_leases.shorten(connection, now)
            # Jobs that end instead of being taken make room for more.
            while rows := sqlite_leases.takeable(
                connection, pipelines, lanes, now, limit - len(taken), most_bytes
            ):
                found = (sqlite_leases.take(connection, row, owner, now, ttl_s) for row in rows)
                taken.extend(record for record in found if record is not None)

        self._writes.run(work)
        return tuple(taken)

    def heartbeat(self, owner: str, leases: Collection[Lease], *, ttl_s: float) -> Heartbeat:
        with self._database.write(is_durable=False) as connection:
            now = self._clock()
            for lease in leases:
                sqlite_leases.prolong(connection, lease, now, ttl_s)
            return sqlite_leases.hear(connection, leases)

    def hear(self, leases: Collection[Lease]) -> Heartbeat:
        with self._database.read() as connection:
            return sqlite_leases.hear(connection, leases)

    def release(self, lease: Lease, *, needs_bytes: int | None = None) -> None:
        with self._database.write() as connection:
            if leased_row(connection, lease)["wants_cancel"]:
                end_job(connection, lease.job_id, "cancelled", self._clock(), {})
            else:
                sqlite_leases.queue_again(connection, lease.job_id)
                if needs_bytes is not None:
                    update_job(connection, lease.job_id, needs_bytes=needs_bytes)

    def checkpoint(self, lease: Lease, name: str) -> str | None:
        def work(connection: sqlite3.Connection) -> str | None:
            replaced: str | None = leased_row(connection, lease)["checkpoint"]
            update_job(connection, lease.job_id, checkpoint=name)
            return None if replaced == name else replaced

        return self._writes.run(work)

    def amend(
        self,
        lease: Lease,
        request: GenerateRequest,
        *,
        changes: Sequence[tuple[str, int, int]] = (),
        predicted_s: float | None = None,
        needs_bytes: int | None = None,
    ) -> str | None:
        predicted: dict[str, Value] = {"predicted_s": predicted_s, "needs_bytes": needs_bytes}
        columns = {**request_columns(request), **predicted, "checkpoint": None, "exact_key": None}
        with self._database.write() as connection:
            dropped: str | None = leased_row(connection, lease)["checkpoint"]
            free_twins(connection, lease.job_id)  # they asked for the clip as it was
            update_job(connection, lease.job_id, **columns)
            if changes:
                add_event(connection, lease.job_id, "degraded", self._clock(), {"changes": changes})
        return dropped

    def append(self, lease: Lease, kind: str, data: Mapping[str, Json]) -> JobEvent:
        _check_open([(kind, data)])
        with self._database.write() as connection:
            leased_row(connection, lease)
            return add_event(connection, lease.job_id, kind, self._clock(), data)

    def append_all(self, lease: Lease, told: Sequence[Told]) -> None:
        _check_open(told)

        def work(connection: sqlite3.Connection) -> None:
            leased_row(connection, lease)
            add_events(connection, lease.job_id, told, self._clock())

        self._writes.run(work)

    def miss_source(self, lease: Lease, *, reason: str) -> None:
        with self._database.write() as connection:
            told = without_source(leased_row(connection, lease)["reuse"], reason)
            update_job(connection, lease.job_id, reuse=told)
            add_event(connection, lease.job_id, "source_missed", self._clock(), {"reason": reason})

    def finish(
        self,
        lease: Lease,
        *,
        result: str,
        actual_s: float,
        data: Mapping[str, Json] | None = None,
        identity: str | None = None,
        told: Sequence[Told] = (),
    ) -> None:
        _check_open(told)
        ended = {**(data or {}), "result": result, "actual_s": actual_s}

        def work(connection: sqlite3.Connection) -> None:
            if has_finished(connection, lease, result):
                return
            row, now = leased_row(connection, lease), self._clock()
            add_events(connection, lease.job_id, told, now)
            disown(connection, row, identity)
            report = {"predicted_s": row["predicted_s"], **ended}
            end_job(connection, lease.job_id, "completed", now, report, result=result, actual_s=actual_s)

        self._writes.run(work)

    def fail(self, lease: Lease, *, error: str, error_kind: str) -> None:
        with self._database.write() as connection:
            leased_row(connection, lease)
            fail_job(connection, lease.job_id, self._clock(), error, error_kind)

    def cancelled(self, lease: Lease) -> None:
        with self._database.write() as connection:
            leased_row(connection, lease)
            end_job(connection, lease.job_id, "cancelled", self._clock(), {})

    def cancel(self, job_id: str) -> JobRecord:
        with self._database.write() as connection:
            row, now = job_row(connection, job_id), self._clock()
            if row["status"] == "queued" or sqlite_leases.has_run_out(row, now):
                end_job(connection, job_id, "cancelled", now, {})
            elif row["status"] == "running":
                update_job(connection, job_id, wants_cancel=True)
            return job_record(job_row(connection, job_id))

    def events(self, job_id: str, *, after: int = 0, limit: int | None = None) -> Sequence[JobEvent]:
        query = "SELECT * FROM events WHERE job_id = ? AND number > ? ORDER BY number LIMIT ?"
        most = -1 if limit is None else limit  # SQLite takes a negative one for none
        with self._database.read() as connection:
            rows = connection.execute(query, (job_id, after, most)).fetchall()
            if not rows:
                job_row(connection, job_id)
        return tuple(job_event(row) for row in rows)

    def latest_event(self, job_id: str, kind: str) -> JobEvent | None:
        query = "SELECT * FROM events WHERE job_id = ? AND kind = ? ORDER BY number DESC LIMIT 1"
        with self._database.read() as connection:
            row = connection.execute(query, (job_id, kind)).fetchone()
        return None if row is None else job_event(row)

    def feed(self, *, after: int, limit: int = 1000) -> Feed:
        query = "SELECT * FROM events WHERE place > ? ORDER BY place LIMIT ?"
        with self._database.read() as connection:
            rows = connection.execute(query, (after, limit)).fetchall()
        return Feed(events=tuple(job_event(row) for row in rows), place=rows[-1]["place"] if rows else after)

    def last_place(self) -> int:
        query = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'events'"
        with self._database.read() as connection:
            place: int = connection.execute(query).fetchone()[0]
        return place

    def nums_ahead(self, job_ids: Sequence[str]) -> Sequence[int]:
        with self._database.read() as connection:
            return job_sums.nums_ahead(connection, job_ids)

    def open_work(self) -> Sequence[OpenWork]:
        with self._database.read() as connection:
            return job_sums.open_work(connection)

    def tallies(self, tenant: str, prefix: str, *, most: int, without: Collection[int]) -> Sequence[Tally]:
        with self._database.read() as connection:
            return job_sums.tallies(connection, tenant, prefix, most, without)

    def kept_promises(self, *, since: float, limit: int) -> Sequence[KeptPromise]:
        with self._database.read() as connection:
            return job_sums.kept_promises(connection, since, limit)

    def is_named(self, result: str) -> bool:
        with self._database.read() as connection:
            return job_sweeps.is_named(connection, result)

    def forget(self, job_id: str) -> Swept:
        with self._database.write() as connection:
            return job_sweeps.forget(connection, job_id)

    def sweep(self, *, ttl_s: float, max_jobs: int) -> Swept:
        parts = [self._sweep_some(ttl_s, max_jobs)]
        while parts[-1].jobs == job_sweeps.JOBS_AT_A_TIME:
            try:
                parts.append(self._sweep_some(ttl_s, max_jobs))
            except StoreError:
                # What is gone by now must be told; the rest is for the next sweep.
                break
        return job_sweeps.joined(parts)

    def _sweep_some(self, ttl_s: float, max_jobs: int) -> Swept:
        with self._database.write() as connection:
            return job_sweeps.sweep_some(connection, self._clock() - ttl_s, max_jobs)

    def close(self) -> None:
        self._database.close()


def _check_open(told: Sequence[Told]) -> None:
    for kind, _ in told:
        if kind in FINAL:
            raise StoreError(f"event {kind!r}: ends a job and is written by the method that ends it")


def _condition(
    tenant: str | None,
    statuses: Collection[JobStatus],
    after: str | None = None,
    *,
    oldest_first: bool = False,
) -> tuple[str, tuple[str, ...]]:
    """SQL that the wanted jobs fulfil, and its values."""
    wanted = {
        "tenant = ?": () if tenant is None else (tenant,),
        f"status IN ({marks(statuses)})": tuple(statuses),
        f"id {'>' if oldest_first else '<'} ?": () if after is None else (after,),
    }
    condition = " AND ".join(condition for condition, values in wanted.items() if values) or "TRUE"
    return condition, tuple(value for values in wanted.values() for value in values)
