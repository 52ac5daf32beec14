"""Disks that are full, files that are read-only, locked, damaged or none: one clear line, nothing half done.

The disk is really full: a file-size limit of the process, and a tmpfs of 400 KiB in a name space of its own
where the system lets anybody have one. Root may write to a read-only file, so there the child that tries
first gives up being root.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from store_parts import OPTIONS, REQUEST, TTL_S, Bench, check_events, child, output_of, output_on_small_disk

from rushes.errors import StoreError
from rushes.stores.sqlite import SqliteJobStore

NOBODY = 65534

FILL = """
import resource, sys
from rushes.errors import StoreError
from rushes.stores.base import Lease
from rushes.stores.sqlite import SqliteJobStore
sys.path.insert(0, sys.argv[2])
from store_parts import OPTIONS, REQUEST, check_events

store = SqliteJobStore(sys.argv[1])
(record,) = (store.create(REQUEST, OPTIONS), *store.lease("w", pipelines=["toy"], limit=1, ttl_s=1000))[1:]
lease = Lease(job_id=record.id, owner="w", token=1)
if sys.argv[3:]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), -1))
num_events = 1
try:
    while True:
        store.append(lease, "progress", {"text": "x" * 5000})
        num_events += 1
except StoreError as error:
    print(error)
    print(type(error.__cause__).__name__)
assert len(store.events(record.id)) == num_events > 5
try:
    store.create(REQUEST, OPTIONS)
    store.finish(lease, result="x" * 20000, actual_s=1)
    print("finished in spite of it")
except StoreError as error:
    pass
assert store.get(record.id).status == "running"
check_events(store, record.id)
"""

TRY = """
import os, sys
from rushes.errors import StoreError
from rushes.stores.sqlite import SqliteJobStore
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    SqliteJobStore(sys.argv[1])
except StoreError as error:
    print(error)
"""

HERE = str(Path(__file__).parent)


def test_a_file_size_limit(tmp_path: Path) -> None:
    path = str(tmp_path / "jobs.db")
    message, cause = output_of(child(FILL, path, HERE, str(300_000))).splitlines()
    assert message == f"{path}: reading or writing failed (disk I/O error)"
    assert cause == "OperationalError"
    store = SqliteJobStore(path)  # without the limit it goes on
    record = store.jobs()[-1]
    check_events(store, record.id)
    assert store.cancel(record.id).wants_cancel
    store.close()


def test_a_full_disk(tmp_path: Path) -> None:
    path = str(tmp_path / "jobs.db")
    message, cause = output_on_small_disk(str(tmp_path), FILL, path, HERE).splitlines()
    assert message == f"{path}: the disk is full (database or disk is full)"
    assert cause == "OperationalError"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may enter; pytest's own are private."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    yield folder
    folder.chmod(0o777)
    shutil.rmtree(folder)


@pytest.mark.parametrize("what", ["file", "folder", "new file"])
def test_read_only(open_folder: Path, what: str) -> None:
    path = open_folder / "jobs.db"
    if what != "new file":
        SqliteJobStore(path).close()
        path.chmod(0o444 if what == "file" else 0o666)
    if what != "file":
        open_folder.chmod(0o555)
    before = path.read_bytes() if path.exists() else None
    (message,) = output_of(child(TRY, str(path))).splitlines()
    cause = "is read-only (attempt to write a readonly database)"
    if what == "new file":
        cause = "cannot be opened: no permission, or no space for the files beside it"
    assert message == f"{path}: {cause}"
    assert before == (path.read_bytes() if path.exists() else None)


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_path_that_cannot_be_a_file(tmp_path: Path, is_folder: bool) -> None:
    path = tmp_path if is_folder else tmp_path / "none" / "jobs.db"
    cause = "it is a folder" if is_folder else f"there is no folder {path.parent}"
    with pytest.raises(StoreError, match=f"^{path}: cannot be opened: {cause}$") as raised:
        SqliteJobStore(path)
    assert isinstance(raised.value.__cause__, sqlite3.OperationalError)


def test_a_locked_database(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    store = SqliteJobStore(path, timeout_s=0.05)
    record = store.create(REQUEST, OPTIONS)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError) as raised:
        store.create(REQUEST, OPTIONS)
    assert str(raised.value) == f"{path}: locked by another process for more than 0.05 s"
    assert store.jobs() == (record,)
    other.execute("ROLLBACK")
    store.create(REQUEST, OPTIONS)
    other.close()
    store.close()


def store_bytes(path: Path) -> bytes:
    bench = Bench(str(path))
    bench.create(50)
    bench.store.close()
    return path.read_bytes()


def use_all_of(path: Path) -> None:
    store = SqliteJobStore(path)
    try:
        for record in store.jobs():
            store.events(record.id)
        store.create(REQUEST, OPTIONS)
    finally:
        store.close()


@pytest.mark.parametrize("damage", ["other", "header only", "half", "zeroed", "a page"])
def test_a_file_that_is_damaged_or_none(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "jobs.db"
    data = store_bytes(path)
    page = 4096
    damaged = {
        "other": b"%PDF-1.7 and so on" * 100,
        "header only": data[:100],
        "half": data[: len(data) // 2],
        "zeroed": data[:page] + bytes(len(data) - page),
        "a page": data[: 2 * page] + b"x" * page + data[3 * page :],
    }[damage]
    path.write_bytes(damaged)
    with pytest.raises(StoreError) as raised:
        use_all_of(path)
    cause = "is no SQLite database" if damage == "other" else "is damaged or cut short"
    assert str(raised.value).startswith(f"{path}: {cause} (")
    assert "\n" not in str(raised.value)
    assert isinstance(raised.value.__cause__, sqlite3.DatabaseError)


def test_an_error_inside_a_transaction_undoes_it(tmp_path: Path) -> None:
    """The event cannot be written, so the job has not ended either."""
    bench = Bench(str(tmp_path / "jobs.db"))
    lease = bench.running()
    other = sqlite3.connect(bench.path, isolation_level=None)
    other.execute("CREATE TRIGGER t BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'no event'); END")
    before = bench.store.jobs(), bench.store.events(lease.job_id)
    writes = (
        lambda: bench.store.finish(lease, result="r", actual_s=1),
        lambda: bench.store.fail(lease, error="e", error_kind="k"),
        bench.create,
        lambda: bench.store.append(lease, "progress", {}),
    )
    for write in writes:
        with pytest.raises(StoreError, match="no event"):
            write()
    assert (bench.store.jobs(), bench.store.events(lease.job_id)) == before
    other.execute("DROP TRIGGER t")
    other.close()
    bench.store.finish(lease, result="r", actual_s=1)
    bench.store.close()


def test_the_log_stays_short_beside_readers(tmp_path: Path) -> None:
    """The write-ahead log is emptied when it is long; a reader that stays holds that up, nobody's writes."""
    bench = Bench(str(tmp_path / "jobs.db"))
    wal = tmp_path / "jobs.db-wal"
    lease = bench.running()

    def write_megabytes(num: int) -> int:
        for _ in range(num * 5):
            bench.store.append(lease, "progress", {"text": "x" * 200_000})
        return wal.stat().st_size

    assert write_megabytes(8) < 5 * 2**20
    reader = sqlite3.connect(bench.path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM jobs").fetchone()
    assert write_megabytes(6) > 5 * 2**20
    reader.close()
    assert write_megabytes(6) < 5 * 2**20
    bench.store.close()
    assert not wal.exists()


def test_what_is_written_is_flushed(tmp_path: Path) -> None:
    """By what SQLite is told: FULL flushes at every commit, NORMAL does not."""
    bench = Bench(str(tmp_path / "jobs.db"))
    lease = bench.running()
    levels = {"append": 2, "heartbeat": 1}
    for name, level in levels.items():
        if name == "append":
            bench.store.append(lease, "progress", {})
        else:
            bench.store.heartbeat("worker", [lease], ttl_s=TTL_S)
        with bench.store._database._connections.use() as connection:
            assert connection.execute("PRAGMA synchronous").fetchone()[0] == level
    bench.store.close()
