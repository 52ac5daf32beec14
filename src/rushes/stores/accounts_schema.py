"""The tables of an account store in SQLite: who may ask, what they used, what they are to be told.

A key's secret is held as SHA-256 only. A webhook's secret lies here as it is, since both sides sign with it:
so the file is readable by its owner alone.
"""

from __future__ import annotations

from rushes.stores.sqlite_versions import Schema

_KEYS = (
    """
    CREATE TABLE keys (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        tenant TEXT NOT NULL,
        scopes TEXT NOT NULL,            -- separated by spaces
        created_at REAL NOT NULL,
        expires_at REAL,
        revoked_at REAL,
        requests_per_minute INTEGER,     -- limits: NULL for none
        concurrent_jobs INTEGER,
        gpu_seconds_per_day REAL,
        webhook_url TEXT,
        webhook_secret TEXT,
        is_cache_allowed INTEGER NOT NULL DEFAULT 1
    )
    """,
    """
    CREATE TABLE secrets (
        key_id TEXT NOT NULL REFERENCES keys (id),
        prefix TEXT NOT NULL,
        sha256 BLOB NOT NULL,
        valid_until REAL                 -- of one that was replaced
    )
    """,
    "CREATE INDEX secrets_by_prefix ON secrets (prefix)",
    "CREATE INDEX secrets_by_key ON secrets (key_id)",
)

_CHARGES = (
    """
    CREATE TABLE charges (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        job_id TEXT,                     -- NULL until the job is there
        job_key TEXT NOT NULL,
        key_id TEXT NOT NULL,
        tenant TEXT NOT NULL,
        day TEXT NOT NULL,               -- in UTC, when it was opened
        predicted_s REAL,
        actual_s REAL,
        opened_at REAL NOT NULL,
        ended_at REAL
    )
    """,
    "CREATE UNIQUE INDEX charges_by_job ON charges (job_id) WHERE job_id IS NOT NULL",
    "CREATE INDEX charges_open ON charges (key_id, job_key) WHERE ended_at IS NULL",
    # What is open of a key is added up from this index alone.
    """
    CREATE INDEX charges_open_by_day ON charges (key_id, day, job_id, opened_at, predicted_s)
    WHERE ended_at IS NULL
    """,
    "CREATE INDEX charges_by_day ON charges (day)",
    # Of jobs that have ended, so that a busy day is not added up at every request.
    """
    CREATE TABLE days (
        key_id TEXT NOT NULL,
        tenant TEXT NOT NULL,
        day TEXT NOT NULL,
        num_jobs INTEGER NOT NULL,
        predicted_s REAL NOT NULL,
        actual_s REAL NOT NULL,
        cost_s REAL NOT NULL,            -- of the limit of that day
        PRIMARY KEY (day, key_id, tenant)
    ) WITHOUT ROWID
    """,
)

_DELIVERIES = (
    """
    CREATE TABLE deliveries (
        id TEXT PRIMARY KEY,
        job_id TEXT NOT NULL UNIQUE,     -- several gateways hear of each end
        key_id TEXT NOT NULL,
        body TEXT NOT NULL,
        created_at REAL NOT NULL,
        num_tries INTEGER NOT NULL DEFAULT 0,
        next_at REAL NOT NULL,
        lease TEXT,                      -- whoever is trying just now
        lease_until REAL,
        delivered_at REAL,
        given_up_at REAL,
        error TEXT
    )
    """,
    """
    CREATE INDEX deliveries_open ON deliveries (key_id, next_at)
    WHERE delivered_at IS NULL AND given_up_at IS NULL
    """,
)

_BATCHES = (
    """
    CREATE TABLE batches (
        id TEXT PRIMARY KEY,             -- sorts by creation
        key_id TEXT NOT NULL,
        tenant TEXT NOT NULL,
        created_at REAL NOT NULL,
        spec TEXT NOT NULL,              -- JSON
        total INTEGER NOT NULL,
        num_rows INTEGER NOT NULL DEFAULT 0,  -- that have a job, or an error: the first so many
        cancelled_at REAL,
        idempotency_key TEXT
    )
    """,
    "CREATE INDEX batches_by_tenant ON batches (tenant, id)",
    "CREATE UNIQUE INDEX batches_by_key ON batches (tenant, idempotency_key)",
    "CREATE INDEX batches_open ON batches (id) WHERE num_rows < total AND cancelled_at IS NULL",
    """
    CREATE TABLE batch_rows (
        batch_id TEXT NOT NULL REFERENCES batches (id),
        number INTEGER NOT NULL,         -- from 1
        job_id TEXT,
        error TEXT,                      -- why there is no job
        PRIMARY KEY (batch_id, number)
    ) WITHOUT ROWID
    """,
)

ACCOUNTS = Schema(
    name="account store",
    application_id=int.from_bytes(b"RuAc", "big"),
    version=1,
    tables=(*_KEYS, *_CHARGES, *_DELIVERIES, *_BATCHES),
    migrations={},
)
