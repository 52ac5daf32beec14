"""The tables of a job store in SQLite, their version, and the way from an older one.

A new field of `GenerateRequest` or `JobOptions` is a new version too: its migration writes the field into the
JSON.
Nothing here needs an SQLite newer than 3.34 (Red Hat 9).
"""

from __future__ import annotations

from collections.abc import Mapping

from rushes.stores.sqlite_versions import Schema

APPLICATION_ID = int.from_bytes(b"Rush", "big")
VERSION = 6

_EVENTS = (
    """
    CREATE TABLE events (
        place INTEGER PRIMARY KEY AUTOINCREMENT, -- in the order of commits, of all jobs; never given twice
        job_id TEXT NOT NULL,
        number INTEGER NOT NULL,
        kind TEXT NOT NULL,
        at REAL NOT NULL,
        data TEXT NOT NULL
    )
    """,
    "CREATE UNIQUE INDEX events_by_job ON events (job_id, number)",
    # The database itself refuses a second end.
    "CREATE UNIQUE INDEX events_end ON events (job_id) WHERE kind IN ('completed', 'failed', 'cancelled')",
)

_REUSE = (
    "CREATE INDEX jobs_by_exact_key ON jobs (tenant, exact_key, id) WHERE exact_key IS NOT NULL",
    "CREATE INDEX jobs_by_original ON jobs (twin_of) WHERE twin_of IS NOT NULL",
    "CREATE INDEX jobs_by_result ON jobs (result) WHERE result IS NOT NULL",
)

# What `job_sums.open_work` adds up, in the order in which it is added up, and with all columns of which that
# and `job_sums.depths` speak: no row is read. It begins with the tenant, of which no other query of open
# jobs speaks, since SQLite would rather search it than go through `jobs_open` in the queue's order.
_WORK = """
    CREATE INDEX jobs_work ON jobs (
        tenant, pipeline, is_interactive, predicted_s, id, status, twin_of, created_at
    )
    WHERE status IN ('queued', 'running') AND twin_of IS NULL
    """

_TABLES = (
    """
    CREATE TABLE jobs (
        id TEXT PRIMARY KEY,            -- sorts by creation, see job_ids
        tenant TEXT NOT NULL,
        idempotency_key TEXT,
        asked TEXT NOT NULL DEFAULT '', -- JSON of the request as it came
        request TEXT NOT NULL,          -- JSON of the request as it will run
        options TEXT NOT NULL,
        pipeline TEXT NOT NULL,
        is_interactive INTEGER NOT NULL,
        status TEXT NOT NULL CHECK (status IN ('queued', 'running', 'completed', 'failed', 'cancelled')),
        created_at REAL NOT NULL,
        started_at REAL,
        finished_at REAL,
        predicted_s REAL,
        eta_s REAL,
        actual_s REAL,
        owner TEXT,
        token INTEGER NOT NULL DEFAULT 0,
        lease_until REAL,
        lease_ttl_s REAL,
        deaths INTEGER NOT NULL DEFAULT 0,
        checkpoint TEXT,
        result TEXT,
        error TEXT,
        error_kind TEXT,
        wants_cancel INTEGER NOT NULL DEFAULT 0,
        needs_bytes INTEGER,            -- of device memory, NULL where nobody has said
        reuse TEXT,                     -- JSON: what it takes from earlier jobs, NULL where nobody has said
        twin_of TEXT,                   -- while queued: the open job whose result will be this one's too
        exact_key TEXT                  -- jobs of one tenant and key have the same result
    )
    """,
    "CREATE UNIQUE INDEX jobs_by_key ON jobs (tenant, idempotency_key) WHERE idempotency_key IS NOT NULL",
    "CREATE INDEX jobs_by_tenant ON jobs (tenant, id)",
    """
    CREATE INDEX jobs_open ON jobs (is_interactive DESC, id, pipeline, needs_bytes, twin_of)
    WHERE status IN ('queued', 'running')
    """,
    _WORK,
    *_REUSE,
    "CREATE INDEX jobs_running ON jobs (id) WHERE status = 'running'",
    "CREATE INDEX jobs_saved ON jobs (id) WHERE checkpoint IS NOT NULL",
    """
    CREATE INDEX jobs_ended ON jobs (finished_at, id, status)
    WHERE status IN ('completed', 'failed', 'cancelled')
    """,
    *_EVENTS,
)

_MIGRATIONS: Mapping[int, tuple[str, ...]] = {
    # Version 1 compared a repeated call with the request as it ran, so a degraded job conflicted with itself.
    1: (
        "ALTER TABLE jobs ADD COLUMN asked TEXT NOT NULL DEFAULT ''",
        "UPDATE jobs SET asked = request",
    ),
    2: (
        "ALTER TABLE jobs ADD COLUMN needs_bytes INTEGER",
        "DROP INDEX jobs_open",
        "CREATE INDEX jobs_open ON jobs (is_interactive DESC, id, pipeline, needs_bytes)"
        " WHERE status IN ('queued', 'running')",
    ),
    # Version 3 could tell the events of one job only, and a job knew of no trace.
    3: (
        "ALTER TABLE events RENAME TO events_3",
        "DROP INDEX events_end",
        *_EVENTS,
        "INSERT INTO events (job_id, number, kind, at, data)"
        " SELECT job_id, number, kind, at, data FROM events_3 ORDER BY at, job_id, number",
        "DROP TABLE events_3",
        "UPDATE jobs SET options = json_set(options, '$.traceparent', NULL)",
    ),
    # Version 4 knew of no reuse. A stored request is compared as text, so its new field goes where it is
    # sorted; what stands between the quotes cannot be within a string of JSON.
    4: (
        *(
            f'UPDATE jobs SET {name} = replace({name}, \',"video":{{\', \',"source":null,"video":{{\')'
            for name in ("request", "asked")
        ),
        *(f"ALTER TABLE jobs ADD COLUMN {name} TEXT" for name in ("reuse", "twin_of", "exact_key")),
        "DROP INDEX jobs_open",
        "CREATE INDEX jobs_open ON jobs (is_interactive DESC, id, pipeline, needs_bytes, twin_of)"
        " WHERE status IN ('queued', 'running')",
        *_REUSE,
    ),
    5: (_WORK,),
}

JOBS = Schema(
    name="job store", application_id=APPLICATION_ID, version=VERSION, tables=_TABLES, migrations=_MIGRATIONS
)
