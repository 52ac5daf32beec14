"""Gateways and workers as processes that are killed: no job of a key is lost, and results are shared."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from store_parts import OPTIONS, REQUEST, Bench, check_events, child, with_seed

from rushes.errors import IdempotencyConflict, StoreError
from rushes.stores.sqlite import SqliteJobStore
from rushes.types import FINAL, JobOptions

GATEWAY = """
import itertools, random, sys
from store_parts import OPTIONS, REQUEST
from rushes.stores.sqlite import SqliteJobStore

store = SqliteJobStore(sys.argv[1])
print("ready", flush=True)
for number in itertools.count():
    key = f"{sys.argv[2]} {number // 5}"
    print(store.create(REQUEST, OPTIONS, exact_key=key, joins=True).id, flush=True)
"""
"""Five jobs of every key, told once they are on the disk."""

WORKER = """
import itertools, sys
from rushes.errors import LeaseLost
from rushes.stores.base import Lease
from rushes.stores.sqlite import SqliteJobStore

path, name = sys.argv[1:]
store = SqliteJobStore(path)
print("ready", flush=True)
while True:
    for record in store.lease(name, pipelines=["toy"], limit=1, ttl_s=0.3):
        lease = Lease(job_id=record.id, owner=name, token=record.token)
        try:
            if record.token == 1 and hash(record.id) % 3 == 0:
                store.fail(lease, error="e", error_kind="k")
            else:
                store.finish(lease, result=record.id + ".mp4", actual_s=1)
        except LeaseLost:
            pass
"""


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


@pytest.mark.usefixtures("environment")
def test_nothing_is_lost_when_gateways_and_workers_are_killed(tmp_path: Path) -> None:
    bench = Bench(str(tmp_path / "jobs.db"))
    bench.clock.now = time.time()
    told: list[str] = []
    for round_number in range(3):
        gateways = [child(GATEWAY, bench.path, f"round {round_number}") for _ in range(2)]
        workers = [child(WORKER, bench.path, f"{round_number} {number}") for number in range(2)]
        for process in gateways + workers:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        time.sleep(0.4)
        for process in gateways + workers:
            process.send_signal(signal.SIGKILL)
        for process in gateways + workers:
            out = process.communicate(timeout=30)[0]
            told += out.split("\n")[:-1] if process in gateways else []
    assert len(told) > 20
    bench.clock.now = time.time() + 60
    while bench.store.count(statuses=("queued", "running")):
        for lease in bench.lease(limit=50):
            bench.store.finish(lease, result=f"{lease.job_id}.mp4", actual_s=1)
    records = {job_id: bench.store.get(job_id) for job_id in told}
    for record in records.values():
        assert record.status in ("completed", "failed")
        check_events(bench.store, record.id)
    made = Counter(record.result for record in records.values() if record.status == "completed")
    assert max(made.values()) > 1, "results were shared"
    bench.store.close()


def test_threads_share_a_flush_and_each_gets_its_own_answer(tmp_path: Path) -> None:
    store = SqliteJobStore(tmp_path / "jobs.db")
    taken = JobOptions(idempotency_key="taken")
    store.create(REQUEST, taken)
    ids: list[str] = []
    conflicts: list[Exception] = []

    def ask(number: int) -> None:
        for _ in range(10):
            ids.append(store.create(REQUEST, OPTIONS).id)
            try:
                store.create(with_seed(5), taken)
            except IdempotencyConflict as error:
                conflicts.append(error)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(conflicts) == 60
    assert len(set(ids)) == 60
    assert {record.id for record in store.jobs(limit=999)} >= set(ids)
    assert store.count() == 61
    store.close()


def test_a_store_that_is_gone_fails_every_thread(tmp_path: Path) -> None:
    store = SqliteJobStore(tmp_path / "jobs.db")
    store.close()
    errors: list[StoreError] = []

    def ask() -> None:
        with pytest.raises(StoreError) as raised:
            store.create(REQUEST, OPTIONS)
        errors.append(raised.value)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(error) for error in errors}) == 4


def test_a_forked_child_writes_though_its_parents_threads_did(tmp_path: Path) -> None:
    store = SqliteJobStore(tmp_path / "jobs.db")
    stops = threading.Event()

    def write() -> None:
        while not stops.is_set():
            store.create(REQUEST, OPTIONS)

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            child_id = os.fork()
            if child_id == 0:
                os._exit(store.create(REQUEST, OPTIONS).status in FINAL)
            assert os.waitpid(child_id, 0)[1] == 0
    finally:
        stops.set()
        for thread in threads:
            thread.join()
        store.close()
