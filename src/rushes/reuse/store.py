"""Entries that survive a restart, in one SQLite file that gateways share."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rushes.errors import StoreError
from rushes.reuse.entries import Entry, Snapshot, snapshots_from_json, snapshots_to_json
from rushes.reuse.eviction import Bounds, Usage, policy
from rushes.reuse.schema import REUSE
from rushes.stores.sqlite_database import Database

REUSE_FILE = "reuse.sqlite"
"""In the store's folder, beside the jobs."""

TIMEOUT_S = 2.0
KEPT_CHANGES = 10_000

_SLACK = 100
"""Eviction makes room for one in so many, so that not every insert has to evict."""


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What changed since an index last asked.

    Attributes:
        number: to ask with next time.
        changed: places by number of their last change; None when everything must be read again.
    """

    number: int
    changed: tuple[int, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """How much one tenant has at one level."""

    tenant: str
    num_entries: int
    nbytes: int


class ReuseStore:
    """Entries of one level ("latent", say), their vectors and what was used how often.

    One transaction a method; safe for threads, forks and processes. Writes survive the death of every
    process; a failing power may take the latest of them back.

    Args:
        path: the file, made when it is missing; or ":memory:".
        level: entries of other levels in the same file are neither seen nor counted.
        policy_name: a name of `rushes.reuse.eviction.POLICIES`. When another one scored the entries until
            now, they are scored again.
        bounds: how much is kept.
        timeout_s: how long a write waits for another process's.
        kept_changes: an index that is further behind than so many reads everything again.

    Raises:
        StoreError: from every method: path and cause in one line; nothing is changed then.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        level: str = "latent",
        policy_name: str = "cost",
        bounds: Bounds | None = None,
        timeout_s: float = TIMEOUT_S,
        kept_changes: int = KEPT_CHANGES,
    ) -> None:
        self._policy, self._policy_name = policy(policy_name), policy_name
        self.level, self.bounds = level, bounds or Bounds()
        self._kept_changes = kept_changes
        self._database = Database(path, REUSE, timeout_s=timeout_s)
        self._adopt_policy()

    def close(self) -> None:
        self._database.close()

    def insert(
        self,
        *,
        id: str,
        tenant: str,
        compat: str,
        prompt: str,
        gist: str,
        vector: bytes,
        snapshots: Sequence[Snapshot],
        saved_s: float,
        now: float,
    ) -> tuple[int, tuple[Entry, ...]]:
        """Its place, and what had to go for it, whose files are the caller's to delete. An entry of this id
        is replaced and keeps hits and pin; it is among those that went with the files not named again."""
        nbytes = sum(one.nbytes for one in snapshots)
        with self._database.write(is_durable=False) as connection:
            old = self._row(connection, id)
            if old is not None:
                self._delete(connection, old)
            hits = 0 if old is None else int(old["hits"])
            usage = Usage(created_at=now, used_at=now, hits=hits, saved_s=saved_s, nbytes=nbytes)
            ttl_s = self.bounds.ttl_s
            place = connection.execute(
                "INSERT INTO entries (id, level, tenant, compat, prompt, gist, snapshots, nbytes, saved_s,"
                " hits, created_at, used_at, expires_at, is_pinned, score)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(id, self.level, tenant, compat, prompt, gist, snapshots_to_json(snapshots)),
                    *(nbytes, saved_s, hits, now, now, None if ttl_s is None else now + ttl_s),
                    0 if old is None else old["is_pinned"],
                    self._policy(usage, self._floor(connection)),
                ),
            ).lastrowid
            assert place is not None
            connection.execute("INSERT INTO vectors (place, vector) VALUES (?, ?)", (place, vector))
            self._note_change(connection, place)
            self._add(connection, tenant, 1, nbytes)
            gone = self._evict(connection, now, tenant, spared=place)
        return place, (*_replaced(old, snapshots), *gone)

    def remove(self, id: str) -> Entry | None:
        """Take one out, pinned or not; None when there is none."""
        with self._database.write(is_durable=False) as connection:
            row = self._row(connection, id)
            if row is not None:
                self._delete(connection, row)
        return None if row is None else _entry_or_bare(row)

    def pin(self, id: str, *, is_pinned: bool = True) -> bool:
        """Keep an entry whatever happens, or no longer; False when there is none of this id."""
        with self._database.write(is_durable=False) as connection:
            return bool(
                connection.execute(
                    "UPDATE entries SET is_pinned = ? WHERE level = ? AND id = ?",
                    (is_pinned, self.level, id),
                ).rowcount
            )

    def evict(self, *, now: float) -> tuple[Entry, ...]:
        """What has had its time or no more room. The files are the caller's to delete."""
        with self._database.write(is_durable=False) as connection:
            query = "SELECT tenant FROM totals WHERE level = ?"
            tenants = [row["tenant"] for row in connection.execute(query, (self.level,))]
            return tuple(
                one for tenant in tenants for one in self._evict(connection, now, tenant, spared=None)
            )

    def count_hits(self, hits: Mapping[int, int], *, now: float) -> None:
        """Add to the hits of entries by place; those that are gone are passed over."""
        with self._database.write(is_durable=False) as connection:
            floor = self._floor(connection)
            for place, num in hits.items():
                row = connection.execute("SELECT * FROM entries WHERE place = ?", (place,)).fetchone()
                if row is None:
                    continue
                usage = Usage(
                    created_at=row["created_at"],
                    used_at=now,
                    hits=row["hits"] + num,
                    saved_s=row["saved_s"],
                    nbytes=row["nbytes"],
                )
                connection.execute(
                    "UPDATE entries SET hits = ?, used_at = ?, score = ? WHERE place = ?",
                    (usage.hits, now, self._policy(usage, floor), place),
                )

    def get(self, id: str) -> Entry | None:
        """The entry of this id. Raises `StoreError` also for one whose row is damaged."""
        with self._database.read() as connection:
            row = self._row(connection, id)
        return None if row is None else _entry(row)

    def ids(self) -> frozenset[str]:
        """Of every entry."""
        with self._database.read() as connection:
            query = "SELECT id FROM entries WHERE level = ?"
            return frozenset(row["id"] for row in connection.execute(query, (self.level,)))

    def rows(self, places: Sequence[int], *, gist: str | None = None) -> Mapping[int, sqlite3.Row]:
        """Rows of `entries` by place, as they are now, for `entry_of`; those that are gone, or of another
        gist where one is given, are left out."""
        marks = ", ".join("?" * len(places))
        query = f"SELECT * FROM entries WHERE level = ? AND coalesce(gist = ?, 1) AND place IN ({marks})"
        with self._database.read() as connection:
            return {row["place"]: row for row in connection.execute(query, (self.level, gist, *places))}

    def news(self, number: int) -> News:
        """What happened after change `number`."""
        query = "SELECT coalesce(min(number), 0) AS low, coalesce(max(number), 0) AS high FROM changes"
        with self._database.read() as connection:
            low, high = connection.execute(query).fetchone()
            if high == number:
                return News(number=number, changed=())
            if low > number + 1 or number > high:
                return News(number=high, changed=None)
            rows = connection.execute("SELECT DISTINCT place FROM changes WHERE number > ?", (number,))
            return News(number=high, changed=tuple(row["place"] for row in rows))

    def vectors(self, places: Sequence[int] | None = None) -> Iterator[tuple[int, str, str, bytes]]:
        """(place, compat, gist, vector) in the order of places; None: of every entry."""
        query = "SELECT place, compat, gist, vector FROM entries JOIN vectors USING (place) WHERE level = ?"
        with self._database.read() as connection:
            if places is None:
                for row in connection.execute(f"{query} ORDER BY place", (self.level,)):
                    yield tuple(row)
            for place in sorted(places or ()):
                for row in connection.execute(f"{query} AND place = ?", (self.level, place)):
                    yield tuple(row)

    def totals(self) -> Sequence[Total]:
        """By tenant."""
        query = "SELECT tenant, num_entries, nbytes FROM totals WHERE level = ? AND num_entries > 0"
        with self._database.read() as connection:
            return tuple(Total(**dict(row)) for row in connection.execute(query, (self.level,)))

    def _row(self, connection: sqlite3.Connection, id: str) -> sqlite3.Row | None:
        query = "SELECT * FROM entries WHERE level = ? AND id = ?"
        row: sqlite3.Row | None = connection.execute(query, (self.level, id)).fetchone()
        return row

    def _floor(self, connection: sqlite3.Connection) -> float:
        row = connection.execute("SELECT floor FROM floors WHERE level = ?", (self.level,)).fetchone()
        return 0.0 if row is None else float(row["floor"])

    def _note_change(self, connection: sqlite3.Connection, place: int) -> None:
        number = connection.execute("INSERT INTO changes (place) VALUES (?)", (place,)).lastrowid or 0
        connection.execute("DELETE FROM changes WHERE number <= ?", (number - self._kept_changes,))

    def _add(self, connection: sqlite3.Connection, tenant: str, num: int, nbytes: int) -> None:
        connection.execute(
            "INSERT INTO totals (level, tenant, num_entries, nbytes) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (level, tenant) DO UPDATE SET num_entries = num_entries + excluded.num_entries,"
            " nbytes = nbytes + excluded.nbytes",
            (self.level, tenant, num, nbytes),
        )

    def _delete(self, connection: sqlite3.Connection, row: sqlite3.Row) -> None:
        connection.execute("DELETE FROM entries WHERE place = ?", (row["place"],))
        connection.execute("DELETE FROM vectors WHERE place = ?", (row["place"],))
        self._note_change(connection, row["place"])
        self._add(connection, row["tenant"], -1, -row["nbytes"])

    def _evict(
        self, connection: sqlite3.Connection, now: float, tenant: str, *, spared: int | None
    ) -> tuple[Entry, ...]:
        """What has had its time; then what is too much of this tenant's, then of all."""
        gone = self._expire(connection, now)
        bounds, values = self.bounds, {"level": self.level, "tenant": tenant}
        query = (
            "SELECT coalesce(sum(num_entries), 0), coalesce(sum(nbytes), 0) FROM totals WHERE level = :level"
        )
        mine = connection.execute(f"{query} AND tenant = :tenant", values).fetchone()
        room = (bounds.tenant_entries, bounds.tenant_bytes)
        gone += self._shrink(connection, tuple(mine), room, spared, tenant)
        everything = connection.execute(query, values).fetchone()
        gone += self._shrink(connection, tuple(everything), (bounds.max_entries, bounds.max_bytes), spared)
        return tuple(_entry_or_bare(row) for row in gone)

    def _expire(self, connection: sqlite3.Connection, now: float) -> list[sqlite3.Row]:
        query = "SELECT * FROM entries WHERE level = ? AND expires_at <= ? AND is_pinned = 0"
        rows = connection.execute(query, (self.level, now)).fetchall()
        for row in rows:
            self._delete(connection, row)
        return rows

    def _shrink(
        self,
        connection: sqlite3.Connection,
        held: tuple[int, int],
        room: tuple[int | None, int | None],
        spared: int | None,
        tenant: str | None = None,
    ) -> list[sqlite3.Row]:
        """Take out the lowest scores until there is room again."""
        gone: list[sqlite3.Row] = []
        if not _is_over(*held, room):
            return gone
        num, nbytes = held
        low_num, low_nbytes = (None if bound is None else bound - bound // _SLACK for bound in room)
        where = "level = ? AND is_pinned = 0 AND place IS NOT ?" + (
            "" if tenant is None else " AND tenant = ?"
        )
        values = (self.level, spared, *(() if tenant is None else (tenant,)))
        floor = self._floor(connection)
        for row in connection.execute(f"SELECT * FROM entries WHERE {where} ORDER BY score, place", values):
            if not _is_over(num, nbytes, (low_num, low_nbytes)):
                break
            gone.append(row)
            num, nbytes, floor = num - 1, nbytes - row["nbytes"], max(floor, row["score"])
        for row in gone:
            self._delete(connection, row)
        connection.execute("UPDATE floors SET floor = ? WHERE level = ?", (floor, self.level))
        return gone

    def _adopt_policy(self) -> None:
        with self._database.write(is_durable=False) as connection:
            row = connection.execute("SELECT policy FROM floors WHERE level = ?", (self.level,)).fetchone()
            if row is not None and row["policy"] == self._policy_name:
                return
            connection.execute(
                "INSERT OR REPLACE INTO floors (level, policy, floor) VALUES (?, ?, 0)",
                (self.level, self._policy_name),
            )
            query = "SELECT place, created_at, used_at, hits, saved_s, nbytes FROM entries WHERE level = ?"
            for entry in connection.execute(query, (self.level,)).fetchall():
                values = dict(entry)
                place = values.pop("place")
                connection.execute(
                    "UPDATE entries SET score = ? WHERE place = ?",
                    (self._policy(Usage(**values), 0.0), place),
                )


def entry_of(row: sqlite3.Row) -> Entry:
    """Raises `StoreError` when the row is damaged."""
    return _entry(row)


def _entry(row: sqlite3.Row) -> Entry:
    values = {name: row[name] for name in Entry.__dataclass_fields__}
    snapshots = snapshots_from_json(row["snapshots"])
    return Entry(**{**values, "snapshots": snapshots, "is_pinned": bool(row["is_pinned"])})


def _entry_or_bare(row: sqlite3.Row) -> Entry:
    """Of a row that goes: where it is damaged nobody knows its files."""
    try:
        return _entry(row)
    except StoreError:
        values = {name: row[name] for name in Entry.__dataclass_fields__}
        return Entry(**{**values, "snapshots": (), "is_pinned": bool(row["is_pinned"])})


def _replaced(old: sqlite3.Row | None, snapshots: Sequence[Snapshot]) -> tuple[Entry, ...]:
    """The entry that was there, with the files that the new one does not name."""
    if old is None:
        return ()
    entry, kept = _entry_or_bare(old), {one.name for one in snapshots}
    left = tuple(one for one in entry.snapshots if one.name not in kept)
    return (replace(entry, snapshots=left),) if left else ()


def _is_over(num: int, nbytes: int, room: tuple[int | None, int | None]) -> bool:
    max_entries, max_bytes = room
    return (max_entries is not None and num > max_entries) or (max_bytes is not None and nbytes > max_bytes)
