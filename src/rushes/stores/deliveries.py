"""Messages to webhooks: each kept until it was taken or given up, each try made by one gateway."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from rushes.stores.api_keys import Webhook
from rushes.stores.sqlite_database import Database

_SLACK_S = 60.0
"""`now` may lie behind what others wrote meanwhile: a process may wait for its turn to write for seconds."""
_OPEN = "delivered_at IS NULL AND given_up_at IS NULL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One message that its holder may try to deliver now.

    Attributes:
        id: the same at every try.
        num_tries: before this one.
        lease: the right to try.
    """

    id: str
    job_id: str
    key_id: str
    body: str
    num_tries: int
    lease: str
    webhook: Webhook


class Deliveries:
    """Durable: what was put here comes out until it is delivered or given up. Times are seconds since the
    epoch.

    Raises:
        StoreError: from every method.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, job_id: str, *, key_id: str, body: str, now: float) -> bool:
        """A message about the end of a job, to be delivered at once; False where there is one already."""
        with self._database.read() as connection:
            if connection.execute("SELECT 1 FROM deliveries WHERE job_id = ?", (job_id,)).fetchone():
                return False
        with self._database.write() as connection:
            cursor = connection.execute(
                "INSERT OR IGNORE INTO deliveries (id, job_id, key_id, body, created_at, next_at)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (f"msg_{secrets.token_hex(16)}", job_id, key_id, body, now, now),
            )
            return cursor.rowcount == 1

    def claim(self, *, limit: int, now: float, lease_s: float, longest_wait_s: float) -> Sequence[Delivery]:
        """Take messages that are due: at most one of a key, and none of a key that somebody is trying just
        now, so that a slow receiver keeps its own messages waiting only.

        Args:
            longest_wait_s: between two tries. One that is due later than that, or leased for longer than
                `lease_s`, each by a minute, is so by a clock that jumped, and is taken now.
        """
        when = {
            "now": now,
            "horizon": now + longest_wait_s + _SLACK_S,
            "lease_end": now + lease_s + _SLACK_S,
        }
        with self._database.read() as connection:
            if not _due(connection, when, limit):
                return ()
        lease = secrets.token_hex(8)
        with self._database.write() as connection:
            rows = _due(connection, when, limit)
            connection.executemany(
                "UPDATE deliveries SET lease = ?, lease_until = ? WHERE id = ?",
                [(lease, now + lease_s, row["id"]) for row in rows],
            )
        return tuple(_delivery(row, lease) for row in rows)

    def delivered(self, delivery: Delivery, *, now: float) -> None:
        """The receiver has it; its body, with the prompt, is not kept."""
        self._end_try(delivery, "delivered_at = ?, error = NULL, body = ''", now)

    def failed(self, delivery: Delivery, error: str, *, next_at: float) -> None:
        """To be tried again."""
        self._end_try(delivery, "next_at = ?, error = ?", next_at, error)

    def given_up(self, delivery: Delivery, error: str, *, now: float) -> None:
        """Not to be tried again; its body is not kept."""
        self._end_try(delivery, "given_up_at = ?, error = ?, body = ''", now, error)

    def count(self, *, is_open: bool) -> int:
        """Messages that are still to be delivered, or those that are not."""
        with self._database.read() as connection:
            condition = _OPEN if is_open else f"NOT ({_OPEN})"
            num: int = connection.execute(f"SELECT count(*) FROM deliveries WHERE {condition}").fetchone()[0]
        return num

    def sweep(self, *, keep_s: float, now: float) -> int:
        """Forget what was delivered, given up or left behind `keep_s` ago; returns how many."""
        with self._database.write() as connection:
            return connection.execute(
                "DELETE FROM deliveries WHERE coalesce(delivered_at, given_up_at, created_at) < ?",
                (now - keep_s,),
            ).rowcount

    def _end_try(self, delivery: Delivery, change: str, *values: float | str) -> None:
        with self._database.write() as connection:
            connection.execute(
                f"UPDATE deliveries SET {change}, num_tries = num_tries + 1, lease = NULL, lease_until = NULL"
                " WHERE id = ? AND lease = ?",
                (*values, delivery.id, delivery.lease),
            )


def _due(connection: sqlite3.Connection, when: dict[str, float], limit: int) -> list[sqlite3.Row]:
    """The earliest of each key; beside min(), SQLite takes the other columns from the same row."""
    is_leased = "lease_until > :now AND lease_until <= :lease_end"
    query = f"""
        SELECT deliveries.*, min(next_at) AS earliest, keys.webhook_url, keys.webhook_secret
        FROM deliveries JOIN keys ON keys.id = key_id
        WHERE {_OPEN} AND (next_at <= :now OR next_at > :horizon)
            AND keys.webhook_url IS NOT NULL AND keys.revoked_at IS NULL
            AND key_id NOT IN (SELECT key_id FROM deliveries WHERE {_OPEN} AND {is_leased})
        GROUP BY key_id ORDER BY earliest LIMIT :limit
    """
    return connection.execute(query, {**when, "limit": limit}).fetchall()


def _delivery(row: sqlite3.Row, lease: str) -> Delivery:
    return Delivery(
        id=row["id"],
        job_id=row["job_id"],
        key_id=row["key_id"],
        body=row["body"],
        num_tries=row["num_tries"],
        lease=lease,
        webhook=Webhook(url=row["webhook_url"], secret=row["webhook_secret"]),
    )
