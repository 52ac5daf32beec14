"""The tables of what may be used again: one file beside the jobs, shared by every gateway."""

from __future__ import annotations

from rushes.stores.sqlite_versions import Schema

_ENTRIES = (
    """
    CREATE TABLE entries (
        place INTEGER PRIMARY KEY AUTOINCREMENT,  -- never given twice
        id TEXT NOT NULL,
        level TEXT NOT NULL,
        tenant TEXT NOT NULL,
        compat TEXT NOT NULL,
        prompt TEXT NOT NULL,
        gist TEXT NOT NULL,              -- of the prompt: those of another one mean something else
        snapshots TEXT NOT NULL,         -- JSON
        nbytes INTEGER NOT NULL,
        saved_s REAL NOT NULL,           -- device seconds that one hit saves
        created_at REAL NOT NULL,
        used_at REAL NOT NULL,
        expires_at REAL,
        hits INTEGER NOT NULL DEFAULT 0,
        is_pinned INTEGER NOT NULL DEFAULT 0,
        score REAL NOT NULL              -- the lowest goes first
    )
    """,
    "CREATE UNIQUE INDEX entries_by_id ON entries (level, id)",
    "CREATE INDEX entries_by_score ON entries (level, score, place) WHERE is_pinned = 0",
    "CREATE INDEX entries_by_tenant ON entries (level, tenant, score, place) WHERE is_pinned = 0",
    "CREATE INDEX entries_by_end ON entries (level, expires_at) WHERE expires_at IS NOT NULL",
    # Apart, so that whatever looks at entries does not read past 1.5 kB of numbers each time.
    "CREATE TABLE vectors (place INTEGER PRIMARY KEY, vector BLOB NOT NULL)",
)

_BOOKS = (
    # What an index must do to follow: the entry is there, or is gone.
    "CREATE TABLE changes (number INTEGER PRIMARY KEY AUTOINCREMENT, place INTEGER NOT NULL)",
    """
    CREATE TABLE totals (
        level TEXT NOT NULL,
        tenant TEXT NOT NULL,
        num_entries INTEGER NOT NULL,
        nbytes INTEGER NOT NULL,
        PRIMARY KEY (level, tenant)
    ) WITHOUT ROWID
    """,
    "CREATE TABLE floors (level TEXT PRIMARY KEY, policy TEXT NOT NULL, floor REAL NOT NULL) WITHOUT ROWID",
)

REUSE = Schema(
    name="reuse store",
    application_id=int.from_bytes(b"RuRe", "big"),
    version=1,
    tables=(*_ENTRIES, *_BOOKS),
    migrations={},
)
