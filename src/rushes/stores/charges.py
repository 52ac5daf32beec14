"""What jobs cost their keys: a reservation before a job is there, its charge once it is, its end."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from rushes.errors import QuotaExceeded, TooManyJobs
from rushes.stores.api_keys import KeyLimits
from rushes.stores.sqlite_database import Database

RESERVED_S = 60.0
"""A reservation whose job never came counts for so long."""
KEEP_USAGE_DAYS = 400

_RETRY_S = (1.0, 60.0)
"""The shortest and the longest wait that is advised for a free slot."""

# A clock that jumped back leaves reservations in the future: those are stale as well, or they would count for
# as long as it jumped.
_COUNTS = f"(job_id IS NOT NULL OR abs(:now - opened_at) <= {RESERVED_S})"
_IS_OPEN = f"ended_at IS NULL AND {_COUNTS}"
_COST = "min(coalesce(actual_s, predicted_s, 0), coalesce(predicted_s, actual_s, 0))"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """The right to create one job.

    Attributes:
        charge_id: of the row.
        job_key: what the caller calls the job before it has an id.
        is_new: False for a repeated call whose job is queued or running: nothing was reserved for it again.
    """

    charge_id: int
    key_id: str
    tenant: str
    job_key: str
    predicted_s: float | None
    opened_at: float
    is_new: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """One job's, as it is stored. `actual_s` is None while it runs, and where nobody can tell."""

    job_id: str
    key_id: str
    tenant: str
    predicted_s: float | None
    actual_s: float | None
    opened_at: float
    ended_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DayUsage:
    """What one key used on one day (UTC, `2026-01-31`): device seconds, and jobs by when they were created.

    Attributes:
        key: the key's name; None when there is no such key, as without authentication.
        predicted_s: of all of the jobs.
        actual_s: of those that have ended.
    """

    key_id: str
    key: str | None
    tenant: str
    day: str
    num_jobs: int
    predicted_s: float
    actual_s: float


class Charges:
    """Counts durably, across all gateways of the file.

    Writes here are not flushed one by one, so that they take a fraction of a millisecond: they survive the
    death of every process; a failing power may take the latest of them back. Times are seconds since the
    epoch.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def reserve(
        self,
        *,
        key_id: str,
        tenant: str,
        job_key: str,
        predicted_s: float | None,
        limits: KeyLimits,
        now: float,
    ) -> Reservation:
        """Check the limits and take what the job needs, in one transaction: of two gateways that ask for the
        last slot, one gets it.

        Args:
            predicted_s: None where nobody can tell: counts as 0 until the job has ended.

        Raises:
            TooManyJobs, QuotaExceeded: nothing is reserved.
        """
        with self._database.write(is_durable=False) as connection:
            if open_one := _open_charge(connection, key_id, job_key, now):
                return _reservation(open_one, is_new=False)
            if limits.concurrent_jobs is not None:
                _check_slots(connection, key_id, limits.concurrent_jobs, now)
            if limits.gpu_seconds_per_day is not None:
                _check_quota(connection, key_id, limits.gpu_seconds_per_day, predicted_s or 0.0, now)
            cursor = connection.execute(
                "INSERT INTO charges (job_key, key_id, tenant, day, predicted_s, opened_at)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (job_key, key_id, tenant, day_of(now), predicted_s, now),
            )
            row = connection.execute("SELECT * FROM charges WHERE id = ?", (cursor.lastrowid,)).fetchone()
            return _reservation(row, is_new=True)

    def bind(self, reservation: Reservation, job_id: str) -> None:
        """The job is there. Where it has a charge already, of an earlier call, the reservation goes."""
        with self._database.write(is_durable=False) as connection:
            mine = connection.execute(
                "SELECT job_id FROM charges WHERE id = ?", (reservation.charge_id,)
            ).fetchone()
            is_unbound = mine is not None and mine["job_id"] is None
            if _charge_row(connection, job_id) is not None:
                if is_unbound and reservation.is_new:
                    _delete_unbound(connection, reservation.charge_id)
            elif is_unbound:
                _set_job(connection, reservation.charge_id, job_id)
            else:
                _insert_bound(connection, reservation, job_id)

    def release(self, reservation: Reservation) -> None:
        """No job came of it; nothing happens to one that is bound, or that another call reserved."""
        if reservation.is_new:
            with self._database.write(is_durable=False) as connection:
                _delete_unbound(connection, reservation.charge_id)

    def claim(self, job_id: str, *, tenant: str, job_key: str) -> None:
        """Bind a job whose gateway died between creating and binding it, by what it was called."""
        query = (
            "SELECT id FROM charges WHERE job_id IS NULL AND ended_at IS NULL AND tenant = ? AND job_key = ?"
        )
        with self._database.read() as connection:
            if _charge_row(connection, job_id) or not connection.execute(query, (tenant, job_key)).fetchone():
                return
        with self._database.write(is_durable=False) as connection:
            row = connection.execute(query, (tenant, job_key)).fetchone()
            if row is not None and _charge_row(connection, job_id) is None:
                _set_job(connection, row["id"], job_id)

    def settle(self, job_id: str, actual_s: float | None, *, now: float, is_whole: bool = True) -> None:
        """The job has ended; a second time, and one of an unknown job, changes nothing.

        Args:
            is_whole: it was done. Of one that was cut short, and maybe deleted, no more counts as predicted
                than it took: nothing of one that never began.
        """
        query = "SELECT 1 FROM charges WHERE job_id = ? AND ended_at IS NULL"
        with self._database.read() as connection:
            if not connection.execute(query, (job_id,)).fetchone():
                return
        with self._database.write(is_durable=False) as connection:
            predicted = "predicted_s" if is_whole else "min(predicted_s, coalesce(?1, predicted_s))"
            cursor = connection.execute(
                f"UPDATE charges SET predicted_s = {predicted}, actual_s = ?1, ended_at = ?2"
                " WHERE job_id = ?3 AND ended_at IS NULL",
                (actual_s, now, job_id),
            )
            if cursor.rowcount:
                _add_to_day(connection, job_id)

    def get(self, job_id: str) -> Charge | None:
        """The charge of a job."""
        with self._database.read() as connection:
            row = _charge_row(connection, job_id)
        if row is None:
            return None
        return Charge(**{name: row[name] for name in Charge.__dataclass_fields__})

    def open_jobs(self) -> Sequence[str]:
        """Ids of jobs that nobody has settled, oldest first."""
        query = "SELECT job_id FROM charges WHERE ended_at IS NULL AND job_id IS NOT NULL ORDER BY id"
        with self._database.read() as connection:
            return tuple(row["job_id"] for row in connection.execute(query))

    def by_day(self, *, days: int, now: float, tenant: str | None = None) -> Sequence[DayUsage]:
        """Use by key and day, latest day first, today included; None: of all tenants."""
        first = day_of(now - (days - 1) * 86400)
        query = f"""
            WITH parts AS (
                SELECT key_id, tenant, day, num_jobs, predicted_s, actual_s FROM days
                UNION ALL
                SELECT key_id, tenant, day, 1, coalesce(predicted_s, 0.0), 0.0 FROM charges WHERE {_IS_OPEN}
            )
            SELECT key_id, keys.name AS key, parts.tenant AS tenant, day, sum(num_jobs) AS num_jobs,
                sum(predicted_s) AS predicted_s, sum(actual_s) AS actual_s
            FROM parts LEFT JOIN keys ON keys.id = key_id
            WHERE day >= :first AND (:tenant IS NULL OR parts.tenant = :tenant)
            GROUP BY key_id, parts.tenant, day ORDER BY day DESC, parts.tenant, key_id
        """
        with self._database.read() as connection:
            rows = connection.execute(query, {"first": first, "tenant": tenant, "now": now}).fetchall()
        return tuple(DayUsage(**dict(row)) for row in rows)

    def sweep(self, *, keep_days: int, now: float) -> int:
        """Forget charges of days long gone, and reservations of yesterday whose job never came; returns how
        many. What was used on a day is kept for `KEEP_USAGE_DAYS`."""
        old, stale = day_of(now - keep_days * 86400), day_of(now - 86400)
        oldest = day_of(now - KEEP_USAGE_DAYS * 86400)
        with self._database.write(is_durable=False) as connection:
            connection.execute("DELETE FROM days WHERE day < ?", (oldest,))
            return connection.execute(
                "DELETE FROM charges"
                " WHERE (day < ? AND ended_at IS NOT NULL) OR (job_id IS NULL AND day < ?)",
                (old, stale),
            ).rowcount


def day_of(now: float) -> str:
    """`2026-01-31`, in UTC."""
    return datetime.fromtimestamp(now, UTC).date().isoformat()


def seconds_to_midnight(now: float) -> float:
    """Until the next day in UTC."""
    moment = datetime.fromtimestamp(now, UTC)
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    return (midnight - moment).total_seconds()


def _check_slots(connection: sqlite3.Connection, key_id: str, limit: int, now: float) -> None:
    query = f"""
        SELECT count(*) AS num, min(opened_at + coalesce(predicted_s, 0)) AS first_end
        FROM charges WHERE key_id = :key_id AND {_IS_OPEN}
    """
    row = connection.execute(query, {"key_id": key_id, "now": now}).fetchone()
    if row["num"] < limit:
        return
    shortest, longest = _RETRY_S
    wait_s = min(max(row["first_end"] - now, shortest), longest) if row["num"] else longest
    raise TooManyJobs(
        f"{row['num']} jobs of this key are queued or running, and it may have {limit}",
        retry_after_s=wait_s,
        limit=limit,
        used=row["num"],
        reset_s=wait_s,
    )


def _check_quota(
    connection: sqlite3.Connection, key_id: str, limit_s: float, predicted_s: float, now: float
) -> None:
    query = f"""
        SELECT (SELECT coalesce(sum(cost_s), 0.0) FROM days WHERE day = :day AND key_id = :key_id) + (
            SELECT coalesce(sum(predicted_s), 0.0) FROM charges
            WHERE key_id = :key_id AND day = :day AND {_IS_OPEN}
        ) AS used
    """
    used_s = connection.execute(query, {"key_id": key_id, "day": day_of(now), "now": now}).fetchone()["used"]
    if used_s + predicted_s <= limit_s and used_s < limit_s:
        return
    wait_s = seconds_to_midnight(now)
    has = f"{max(0.0, limit_s - used_s):.1f} of {limit_s:.1f} left today"
    if predicted_s > limit_s:
        has = f"never more than {limit_s:.1f} a day; make it smaller"
    raise QuotaExceeded(
        f"the job is predicted to take {predicted_s:.1f} GPU-seconds, and this key has {has}",
        retry_after_s=wait_s,
        limit=limit_s,
        used=used_s,
        reset_s=wait_s,
        may_wait=predicted_s <= limit_s,
    )


def _open_charge(connection: sqlite3.Connection, key_id: str, job_key: str, now: float) -> sqlite3.Row | None:
    row: sqlite3.Row | None = connection.execute(
        f"SELECT * FROM charges WHERE key_id = :key_id AND job_key = :job_key AND {_IS_OPEN}",
        {"key_id": key_id, "job_key": job_key, "now": now},
    ).fetchone()
    return row


def _reservation(row: sqlite3.Row, *, is_new: bool) -> Reservation:
    names = ("key_id", "tenant", "job_key", "predicted_s", "opened_at")
    return Reservation(charge_id=row["id"], is_new=is_new, **{name: row[name] for name in names})


def _charge_row(connection: sqlite3.Connection, job_id: str) -> sqlite3.Row | None:
    row: sqlite3.Row | None = connection.execute(
        "SELECT * FROM charges WHERE job_id = ?", (job_id,)
    ).fetchone()
    return row


def _add_to_day(connection: sqlite3.Connection, job_id: str) -> None:
    connection.execute(
        f"""
        INSERT INTO days (key_id, tenant, day, num_jobs, predicted_s, actual_s, cost_s)
        SELECT key_id, tenant, day, 1, coalesce(predicted_s, 0), coalesce(actual_s, 0), {_COST}
        FROM charges WHERE job_id = ?
        ON CONFLICT DO UPDATE SET num_jobs = num_jobs + 1, predicted_s = predicted_s + excluded.predicted_s,
            actual_s = actual_s + excluded.actual_s, cost_s = cost_s + excluded.cost_s
        """,
        (job_id,),
    )


def _set_job(connection: sqlite3.Connection, charge_id: int, job_id: str) -> None:
    connection.execute("UPDATE charges SET job_id = ? WHERE id = ?", (job_id, charge_id))


def _delete_unbound(connection: sqlite3.Connection, charge_id: int) -> None:
    connection.execute("DELETE FROM charges WHERE id = ? AND job_id IS NULL", (charge_id,))


def _insert_bound(connection: sqlite3.Connection, reservation: Reservation, job_id: str) -> None:
    connection.execute(
        "INSERT INTO charges (job_id, job_key, key_id, tenant, day, predicted_s, opened_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            job_id,
            reservation.job_key,
            reservation.key_id,
            reservation.tenant,
            day_of(reservation.opened_at),
            reservation.predicted_s,
            reservation.opened_at,
        ),
    )
