"""The event loop answers others while one caller's work is large or the store is slow."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from benchmarks.service_processes import Service
from local_service import lease

from rushes.engine.artefacts import result_name
from rushes.engine.workplace import Workplace
from rushes.stores.base import Lease

SMALL = {"prompt": "a dog", "width": 64, "height": 64, "num_frames": 5, "num_inference_steps": 2}
MOST_S, FEW = 0.15, 3
"""That /health may be held up by others, but for so many answers: a machine has hiccups of its own. What the
tests guard against takes 0.25 s and more; on a machine with two free cores answers come within 0.05 s."""

TIMES = 6
"""That what might hold others up is done: more often than hiccups are forgiven."""

NUM_EVENTS = 20_000
NUM_BYTES = 100 << 20


PROBE = """
import http.client, json, sys, threading, time

def over():
    sys.stdin.read()
    stops.set()

stops, took_s = threading.Event(), []
threading.Thread(target=over).start()
connection = http.client.HTTPConnection(sys.argv[1], timeout=60)
while not stops.wait(0.002):
    begin = time.perf_counter()
    connection.request("GET", "/health")
    assert connection.getresponse().read()
    took_s.append(time.perf_counter() - begin)
print(json.dumps(took_s))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A gateway process over a store whose worker is the test."""

    url: str
    place: Workplace


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Running]:
    with Service(tmp_path) as processes:
        _, url = processes.start_gateway()
        with Workplace(processes.store) as place:
            yield Running(url=url, place=place)


def check_unhindered(url: str, work: Callable[[], None]) -> None:
    """Asks /health all the time from a process of its own while work is done: all answers but `FEW` come in
    time. How late they are while the gateway does nothing is allowed for, twice; and what others on a busy
    machine do is not there every time, so that one of three tries has to be good."""
    seen = []
    for _ in range(3):
        with probing(url) as before:
            time.sleep(1.0)
        with probing(url) as during:
            work()
        assert len(during) > 20
        if during[-FEW - 1] < MOST_S + 2 * before[-FEW - 1]:
            return
        seen.append((during[-8:], before[-8:]))
    raise AssertionError(seen)


@contextmanager
def probing(url: str) -> Iterator[list[float]]:
    """Gives a list that is filled, in order, when the block ends."""
    took_s: list[float] = []
    command = [sys.executable, "-c", PROBE, url.removeprefix("http://")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as probe:
        time.sleep(0.3)
        yield took_s
        took_s += sorted(json.loads(probe.communicate()[0]))


def rows_of(place: Workplace, table: str) -> tuple[sqlite3.Connection, dict[str, object]]:
    """A connection to the store's file, and the table's last row."""
    connection = sqlite3.connect(place.folder / "jobs.sqlite")
    connection.row_factory = sqlite3.Row
    row = connection.execute(f"SELECT * FROM {table} ORDER BY rowid DESC LIMIT 1").fetchone()
    return connection, dict(row)


def insert(connection: sqlite3.Connection, table: str, rows: list[dict[str, object]]) -> None:
    names = list(rows[0])
    query = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
    connection.executemany(query, [tuple(row[name] for name in names) for row in rows])
    connection.commit()
    connection.close()


def long_history(place: Workplace) -> str:
    """A job that has told of very many units, and goes on."""
    held, record = lease(place)
    place.jobs.append(held, "progress", {"stage": "denoise", "units": 0, "total": NUM_EVENTS})
    connection, last = rows_of(place, "events")
    first = int(str(last["number"]))
    numbers = range(first + 1, NUM_EVENTS + 1)
    data = {"stage": "denoise", "total": NUM_EVENTS}
    rows = [{**last, "place": None, "number": n, "data": json.dumps({**data, "units": n})} for n in numbers]
    insert(connection, "events", rows)
    return record.id


def test_a_long_history_is_replayed_without_holding_up_others(service: Running) -> None:
    httpx2.post(f"{service.url}/v1/videos", json=SMALL)
    job_id = long_history(service.place)
    url = f"{service.url}/v1/videos/{job_id}/events"

    def replay() -> None:
        for _ in range(TIMES):
            assert told(url, most=1_500) == list(range(1, 1_501))

    check_unhindered(service.url, replay)
    assert told(url, most=NUM_EVENTS) == list(range(1, NUM_EVENTS + 1))
    assert told(f"{url}?after={NUM_EVENTS - 2}", most=2) == [NUM_EVENTS - 1, NUM_EVENTS]


def told(url: str, *, most: int) -> list[int]:
    """Numbers of the first events."""
    found: list[int] = []
    with httpx2.stream("GET", url) as answer:
        for line in answer.iter_lines():
            if line.startswith("id: "):
                found.append(int(line.removeprefix("id: ")))
                if len(found) == most:
                    break
    return found


def test_a_deep_queue_is_listed_and_watched_without_holding_up_others(service: Running) -> None:
    httpx2.post(f"{service.url}/v1/videos", json=SMALL)
    connection, last = rows_of(service.place, "jobs")
    ids = [f"{int(str(last['id']), 16) + number:032x}" for number in range(1, 20_001)]
    insert(connection, "jobs", [{**last, "id": job_id} for job_id in ids])

    def look() -> None:
        for _ in range(TIMES):
            page = httpx2.get(f"{service.url}/v1/videos", params={"limit": 20}, timeout=60).json()
            positions = [video["position"] for video in page["data"]]
            assert positions == list(range(20_000, 19_980, -1))
            assert httpx2.get(f"{service.url}/v1/videos/{ids[-1]}").json()["position"] == 20_000
        assert httpx2.get(f"{service.url}/v1/usage").status_code == 200
        assert httpx2.get(f"{service.url}/ready").status_code == 503

    check_unhindered(service.url, look)


def test_a_large_growing_video_is_sent_and_proved_without_holding_up_others(service: Running) -> None:
    """All of it lies there when it is asked for. Then the job goes from life to life, each with a file
    of its own of a byte more, so that everything that was sent is read again."""

    def play() -> None:
        made = httpx2.post(f"{service.url}/v1/videos", json=SMALL).json()
        url, num_bytes = f"{service.url}/v1/videos/{made['id']}/stream", 0
        held = grown(service.place, NUM_BYTES)
        with httpx2.stream("GET", url, timeout=60) as answer:
            for data in answer.iter_raw():
                num_bytes += len(data)
                if NUM_BYTES <= num_bytes < NUM_BYTES + TIMES:
                    service.place.jobs.release(held)
                    held = grown(service.place, num_bytes + 1)
                elif num_bytes == NUM_BYTES + TIMES:
                    service.place.jobs.cancel(made["id"])
                    service.place.jobs.cancelled(held)
        assert num_bytes == NUM_BYTES + TIMES

    check_unhindered(service.url, play)


def grown(place: Workplace, num_bytes: int) -> Lease:
    """The oldest job, with a file of zeros that grows."""
    held, record = lease(place)
    with place.results.partial_path(result_name(record)).open("wb") as file:
        file.truncate(num_bytes)
    return held


def test_a_large_body_is_read_without_holding_up_others(service: Running) -> None:
    """A loop that parses it, and writes all of it into a message of 200 letters, stands still meanwhile."""
    body = b'{"size":[' + b",".join(24_000 * [b'{"a":"a text of thirty letters"}']) + b"]}"

    def ask() -> None:
        for _ in range(TIMES):
            answer = httpx2.post(
                f"{service.url}/v1/videos",
                content=body,
                headers={"Content-Type": "application/json"},
                timeout=60,
            )
            assert answer.json()["error"]["value"].startswith("[{'a': 'a text of")

    check_unhindered(service.url, ask)


def test_a_locked_store_holds_up_those_only_who_write(service: Running) -> None:
    made = httpx2.post(f"{service.url}/v1/videos", json=SMALL).json()
    connection = sqlite3.connect(service.place.folder / "jobs.sqlite", isolation_level=None)
    check_unhindered(service.url, lambda: write_while_locked(service.url, made["id"], connection))
    connection.close()


def write_while_locked(url: str, job_id: str, connection: sqlite3.Connection) -> None:
    statuses: list[int] = []

    def write() -> None:
        statuses.append(httpx2.post(f"{url}/v1/videos", json=SMALL, timeout=60).status_code)

    writers = [threading.Thread(target=write) for _ in range(8)]
    connection.execute("BEGIN IMMEDIATE")
    for writer in writers:
        writer.start()
    for _ in range(20):
        assert httpx2.get(f"{url}/v1/videos/{job_id}").status_code == 200
        time.sleep(0.05)
    assert not statuses
    connection.execute("ROLLBACK")
    for writer in writers:
        writer.join()
    assert statuses == [200] * 8
