"""Many processes on one file; some of them killed, some of them forked."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from store_parts import OPTIONS, REQUEST, Bench, check_events, child, output_of, outputs_of

from rushes.errors import StoreError
from rushes.stores.sqlite import SqliteJobStore

WORK = """
import sys
from rushes.stores.base import Lease
from rushes.stores.sqlite import SqliteJobStore

path, name = sys.argv[1:]
store = SqliteJobStore(path)
print("ready", flush=True)
sys.stdin.readline()
while records := store.lease(name, pipelines=["toy"], limit=2, ttl_s=1000):
    for record in records:
        lease = Lease(job_id=record.id, owner=name, token=record.token)
        store.append(lease, "progress", {"by": name})
        store.heartbeat(name, [lease], ttl_s=1000)
        if record.token == 1:
            store.checkpoint(lease, name)
            store.release(lease)
        else:
            store.finish(lease, result=name, actual_s=1)
            print(record.id, flush=True)
"""
"""Every job is leased twice: given back the first time, finished the second."""

HANG = """
import sys, time
from rushes.stores.base import Lease
from rushes.stores.sqlite import SqliteJobStore

def clock():
    # The store reads its clock inside the transaction.
    print("inside", flush=True)
    time.sleep(60)

store = SqliteJobStore(sys.argv[1], clock=clock)
store.fail(Lease(job_id=sys.argv[2], owner="worker", token=1), error="e", error_kind="k")
"""

SPILL = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size = 1")
connection.execute("BEGIN IMMEDIATE")
connection.execute("UPDATE jobs SET status = 'completed', result = hex(zeroblob(10000))")
connection.execute("DELETE FROM events")
print("inside", flush=True)
time.sleep(60)
"""
"""So little memory that half of the transaction is in the file already."""

CHURN = """
import itertools, sys
from rushes.stores.base import Lease
from rushes.stores.sqlite import SqliteJobStore

path, name = sys.argv[1:]
store = SqliteJobStore(path)
print("ready", flush=True)
for number in itertools.count():
    (record,) = store.lease(name, pipelines=["toy"], limit=1, ttl_s=1000)
    lease = Lease(job_id=record.id, owner=name, token=record.token)
    store.append(lease, "progress", {"number": number})
    store.checkpoint(lease, f"{name} {number}")
    store.finish(lease, result=f"{name} {number}", actual_s=1)
    print(record.id, flush=True)
    store.create(record.request, record.options)
"""
"""As many transactions as possible, told once they are done."""

TRY = """
import sys
from rushes.errors import StoreError
from rushes.stores.sqlite import SqliteJobStore
try:
    SqliteJobStore(sys.argv[1], timeout_s=0.05)
except StoreError as error:
    print(error)
"""


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(str(tmp_path / "jobs.db"))
    yield bench
    bench.store.close()


def check_sound(path: str) -> None:
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


def test_processes_share_the_work(bench: Bench) -> None:
    num_jobs = 24
    bench.create(num_jobs)
    workers = [child(WORK, bench.path, f"worker {i}") for i in range(3)]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    finished = "".join(outputs_of(workers)).split()
    assert sorted(finished) == sorted(record.id for record in bench.store.jobs())
    for record in bench.store.jobs():
        assert (record.status, record.token, record.deaths) == ("completed", 2, 0)
        assert bench.kinds(record.id) == ["queued", "progress", "progress", "completed"]
        check_events(bench.store, record.id)


def test_processes_make_the_file_together(tmp_path: Path) -> None:
    path = str(tmp_path / "jobs.db")
    makers = [child(WORK, path, f"worker {i}") for i in range(4)]
    assert outputs_of(makers) == ["ready\n"] * 4
    check_sound(path)


@pytest.mark.parametrize("code", [HANG, SPILL])
def test_killed_inside_a_transaction(bench: Bench, code: str) -> None:
    """Nothing of it is done, and the lock goes with the process."""
    lease = bench.running()
    before = bench.store.get(lease.job_id)
    wal = Path(f"{bench.path}-wal")
    num_bytes = wal.stat().st_size
    process = child(code, bench.path, lease.job_id)
    assert process.stdout is not None
    assert process.stdout.readline() == "inside\n"
    assert code != SPILL or wal.stat().st_size > num_bytes
    bench.store.get(lease.job_id)  # readers do not wait
    process.kill()
    process.wait()
    process.communicate()
    assert bench.store.get(lease.job_id) == before
    assert bench.kinds(lease.job_id) == ["queued"]
    bench.store.finish(lease, result="r", actual_s=1)
    check_sound(bench.path)


def test_killed_at_any_moment(bench: Bench) -> None:
    """Whatever a process said was done is done, and no job is half finished."""
    bench.create(8)  # each process that is killed may keep one
    told: list[str] = []
    for round_ in range(3):
        processes = [child(CHURN, bench.path, f"process {round_}.{i}") for i in range(2)]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            told.append(process.stdout.readline().strip())
        time.sleep(0.05 + 0.0137 * round_)
        for process in processes:
            os.kill(process.pid, signal.SIGKILL)
        for process in processes:
            assert process.stdout is not None
            told += process.stdout.read().split("\n")[:-1]
            process.communicate()
    check_sound(bench.path)
    for job_id in told:
        assert bench.store.get(job_id).status == "completed"
    for record in bench.store.jobs(limit=10_000):
        check_events(bench.store, record.id)
        assert (record.result is not None) == (record.status == "completed")


def in_fork(work: Callable[[], object]) -> int:
    """The exit status of a forked child that does this; 0 when it went well."""
    process = os.fork()
    if process == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def test_parent_and_forked_children_go_on(bench: Bench) -> None:
    bench.create(2)
    num_jobs = 20

    def work() -> None:
        for _ in range(num_jobs):
            bench.create()

    assert [in_fork(doing) for doing in (work, bench.store.close, work)] == [0, 0, 0]
    work()
    assert bench.store.count() == 2 + 3 * num_jobs
    check_sound(bench.path)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # of Python 3.12: what is tested here
def test_a_fork_beside_threads(bench: Bench) -> None:
    """A child that is forked while other threads write starts between two transactions."""
    stops = threading.Event()
    (record,) = bench.create()

    def write() -> None:
        while not stops.is_set():
            bench.create()

    thread = threading.Thread(target=write)
    thread.start()
    pid = os.fork()
    if pid == 0:
        os._exit(bench.store.get(record.id) != record or len(bench.create()) != 1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    stops.set()
    thread.join()
    assert status == 0
    check_sound(bench.path)


def test_memory_is_not_shared_with_a_forked_child() -> None:
    bench = Bench()

    def work() -> None:
        with pytest.raises(StoreError, match="a forked process has a copy of its own"):
            bench.create()

    assert in_fork(work) == 0
    bench.store.close()


def test_connections_end_with_their_threads(bench: Bench) -> None:
    def num_open() -> int:
        links = [Path("/proc/self/fd", fd) for fd in os.listdir("/proc/self/fd")]
        return sum(os.path.realpath(link) == bench.path for link in links)

    for _ in range(9):
        thread = threading.Thread(target=bench.create)
        thread.start()
        thread.join()
    # SQLite keeps the file of a closed connection for the next one, because of its locks.
    assert num_open() <= 3
    bench.store.close()
    assert num_open() == 0


def test_a_second_store_of_one_file_in_one_process(bench: Bench) -> None:
    """Closing it does not drop the lock that the first one has inside a transaction."""

    def clock() -> float:
        with pytest.raises(StoreError, match=r"locked by another process for more than 0\.05 s"):
            SqliteJobStore(bench.path, timeout_s=0.05)
        said.append(output_of(child(TRY, bench.path)))
        return 1.0

    said: list[str] = []
    store = SqliteJobStore(bench.path, clock=clock)
    store.create(REQUEST, OPTIONS)
    store.close()
    assert said == [f"{bench.path}: locked by another process for more than 0.05 s\n"]
