"""An older job store is migrated, whole or not at all; a newer or a foreign file is refused by name."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from store_parts import OPTIONS, REQUEST, check_events, child, outputs_of, with_seed

from rushes.errors import IdempotencyConflict, StoreError
from rushes.stores.request_json import to_json
from rushes.stores.sqlite import SqliteJobStore
from rushes.stores.sqlite_schema import APPLICATION_ID, VERSION
from rushes.types import JobOptions

VERSION_1 = """
CREATE TABLE jobs (
    id TEXT PRIMARY KEY,
    tenant TEXT NOT NULL,
    idempotency_key TEXT,
    request TEXT NOT NULL,
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
    wants_cancel INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX jobs_by_key ON jobs (tenant, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX jobs_by_tenant ON jobs (tenant, id);
CREATE INDEX jobs_open ON jobs (is_interactive DESC, id, pipeline) WHERE status IN ('queued', 'running');
CREATE INDEX jobs_running ON jobs (id) WHERE status = 'running';
CREATE INDEX jobs_saved ON jobs (id) WHERE checkpoint IS NOT NULL;
CREATE INDEX jobs_ended ON jobs (finished_at, id, status)
WHERE status IN ('completed', 'failed', 'cancelled');
CREATE TABLE events (
    job_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    kind TEXT NOT NULL,
    at REAL NOT NULL,
    data TEXT NOT NULL,
    PRIMARY KEY (job_id, number)
) WITHOUT ROWID;
CREATE UNIQUE INDEX events_end ON events (job_id) WHERE kind IN ('completed', 'failed', 'cancelled');
PRAGMA application_id = 1383428968;
PRAGMA user_version = 1;
"""
"""The schema as version 1 made it; it does not change any more."""

JOB = "0000000005dc" + 20 * "a"

OPEN = """
import sys
from rushes.stores.sqlite import SqliteJobStore
print(SqliteJobStore(sys.argv[1]).count())
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "jobs.db")


def execute(path: str, script: str) -> None:
    connection = sqlite3.connect(path)
    connection.executescript(script)
    connection.close()


def make_version_1(path: str) -> None:
    """With a running job."""
    execute(path, "PRAGMA journal_mode = WAL;" + VERSION_1)
    options = JobOptions(idempotency_key="key")
    connection = sqlite3.connect(path)
    connection.execute(
        "INSERT INTO jobs (id, tenant, idempotency_key, request, options, pipeline, is_interactive, status,"
        " created_at, owner, token, lease_until, lease_ttl_s, checkpoint)"
        " VALUES (?, 'default', 'key', ?, ?, 'toy', 0, 'running', 1.5, 'worker', 4, 9e9, 30, 'c')",
        (JOB, to_json(REQUEST).replace(',"source":null', ""), to_json(options)),
    )
    connection.execute("INSERT INTO events VALUES (?, 1, 'queued', 1.5, '{}')", (JOB,))
    connection.commit()
    connection.close()


def schema(path: str) -> dict[str, set[str]]:
    """Columns by table, and the names of indices."""
    connection = sqlite3.connect(path)
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    found = {table: {row[1] for row in connection.execute(f"PRAGMA table_info({table})")} for table in tables}
    indices = connection.execute("SELECT name FROM sqlite_master WHERE type = 'index'").fetchall()
    connection.close()
    return found | {"": {name for (name,) in indices}}


def versions(path: str) -> tuple[int, int]:
    connection = sqlite3.connect(path)
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    connection.close()
    return application, version


def test_a_new_file(path: str) -> None:
    SqliteJobStore(path).close()
    assert versions(path) == (APPLICATION_ID, VERSION) == (1383428968, 6)
    SqliteJobStore(path).close()


def test_version_1_is_migrated(path: str, tmp_path: Path) -> None:
    make_version_1(path)
    store = SqliteJobStore(path)
    assert versions(path) == (APPLICATION_ID, VERSION)
    record = store.get(JOB)
    assert (record.status, record.token, record.checkpoint, record.request) == ("running", 4, "c", REQUEST)
    assert store.create(REQUEST, JobOptions(idempotency_key="key")).id == JOB
    with pytest.raises(IdempotencyConflict):
        store.create(with_seed(1), JobOptions(idempotency_key="key"))
    assert store.asked(JOB) == REQUEST
    assert store.create(REQUEST, OPTIONS).status == "queued"
    assert len(store.lease("w", pipelines=["toy"], limit=9, ttl_s=1, most_bytes=0)) == 1, "nobody said"
    check_events(store, JOB)
    store.close()
    fresh = str(tmp_path / "fresh.db")
    SqliteJobStore(fresh).close()
    assert schema(path) == schema(fresh)


def test_version_5_is_migrated(path: str) -> None:
    """It lacked an index, and nothing else."""
    store = SqliteJobStore(path)
    record = store.create(REQUEST, OPTIONS, predicted_s=2.0)
    store.close()
    current = schema(path)
    execute(path, "DROP INDEX jobs_work; PRAGMA user_version = 5")
    store = SqliteJobStore(path)
    assert (versions(path), schema(path)) == ((APPLICATION_ID, VERSION), current)
    assert [work.seconds for work in store.open_work()] == [2.0]
    assert store.get(record.id) == record
    store.close()


def test_a_migration_that_fails_changes_nothing(path: str) -> None:
    make_version_1(path)
    execute(path, "CREATE TRIGGER stop BEFORE UPDATE ON jobs BEGIN SELECT RAISE(ABORT, 'stopped'); END")
    before = schema(path)
    with pytest.raises(StoreError, match=f"^{path}: stopped$"):
        SqliteJobStore(path)
    assert versions(path) == (APPLICATION_ID, 1)
    assert schema(path) == before
    execute(path, "DROP TRIGGER stop")
    store = SqliteJobStore(path)
    assert store.count() == 1
    store.close()


def test_processes_migrate_once(path: str) -> None:
    make_version_1(path)
    assert outputs_of([child(OPEN, path) for _ in range(3)]) == ["1\n"] * 3
    assert versions(path) == (APPLICATION_ID, VERSION)


def refused(path: str) -> str:
    """Why this file is no job store for us; it is as it was afterwards."""
    before = Path(path).read_bytes()
    with pytest.raises(StoreError) as raised:
        SqliteJobStore(path)
    assert Path(path).read_bytes() == before
    return str(raised.value)


def test_a_newer_file_is_refused(path: str) -> None:
    execute(path, VERSION_1 + "PRAGMA user_version = 7")
    assert refused(path) == f"{path}: schema version 7 is not supported; this Rushes reads 1 to 6"


@pytest.mark.parametrize(
    ("script", "application", "version"),
    [
        ("CREATE TABLE songs (name)", 0, 0),
        ("PRAGMA user_version = 2", 0, 2),
        ("CREATE TABLE jobs (id); PRAGMA application_id = 5; PRAGMA user_version = 1", 5, 1),
    ],
)
def test_another_programs_database_is_refused(path: str, script: str, application: int, version: int) -> None:
    execute(path, script)
    assert refused(path) == (
        f"{path}: not a job store of Rushes: a database with application id {application}, "
        f"schema version {version}; expected application id {APPLICATION_ID}"
    )


def test_a_store_that_was_migrated_while_it_was_open(path: str) -> None:
    store = SqliteJobStore(path)
    execute(path, "PRAGMA user_version = 7")
    for ask in (store.jobs, lambda: store.create(REQUEST, OPTIONS)):
        with pytest.raises(StoreError, match=f"^{path}: has schema version 7 by now; this Rushes needs 6$"):
            ask()
    store.close()


def test_a_stored_request_that_cannot_be_read_is_named(path: str) -> None:
    store = SqliteJobStore(path)
    record = store.create(REQUEST, OPTIONS)
    other = {**json.loads(to_json(REQUEST)), "prompts": "x"}
    connection = sqlite3.connect(path)
    connection.execute("UPDATE jobs SET request = ?", (json.dumps(other),))
    connection.commit()
    connection.close()
    with pytest.raises(StoreError, match=f"^job {record.id}: GenerateRequest: unknown field 'prompts'"):
        store.get(record.id)
    store.close()
