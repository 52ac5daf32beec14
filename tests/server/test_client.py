"""`rushes.Client` against a gateway behind a real socket: errors, lost connections, files."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from local_service import LocalService, complete, lease
from running_service import SMALL

import rushes
from rushes.client.service import PAGE
from rushes.engine.artefacts import result_name
from rushes.engine.workplace import Workplace
from rushes.errors import (
    ConfigError,
    Forbidden,
    IdempotencyConflict,
    InvalidRequest,
    JobCancelled,
    RateLimited,
    ServiceError,
    Unauthenticated,
    UnknownBatch,
    UnknownJob,
    WorkerDied,
)
from rushes.pipelines.rules import load_rules, resolve
from rushes.stores.api_keys import KeyLimits
from rushes.types import JobOptions


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Workplace]:
    with Workplace(tmp_path / "store") as found:
        yield found


@pytest.fixture
def service(place: Workplace) -> Iterator[LocalService]:
    with LocalService(place) as found:
        yield found


@pytest.fixture
def client(service: LocalService) -> Iterator[rushes.Client]:
    with rushes.Client(service.url) as found:
        yield found


def later(seconds: float, call: Any, *arguments: Any) -> threading.Thread:
    """Runs something beside the test; to be joined."""

    def run() -> None:
        time.sleep(seconds)
        call(*arguments)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_a_clip_is_made_and_saved(client: rushes.Client, place: Workplace, tmp_path: Path) -> None:
    clip = client.create("a dog", **SMALL, seed=7, negative_prompt=None)
    assert (clip.status, clip.video["seed"]) == ("queued", 7)
    worker = later(0.2, complete, place, b"bytes of a clip")
    assert clip.save(tmp_path / "dog.mp4").read_bytes() == b"bytes of a clip"
    worker.join()
    assert clip.status == "completed"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["dog.mp4"]
    assert client.get(clip.id).video == clip.refresh().video
    clip.delete()
    with pytest.raises(UnknownJob):
        client.get(clip.id)


def test_lists_page_to_the_end(client: rushes.Client, place: Workplace) -> None:
    request = resolve(load_rules("toy"), "a dog", seed=1, **SMALL)
    made = [place.jobs.create(request, JobOptions()).id for _ in range(PAGE + 5)]
    assert [clip.id for clip in client.list()] == made[::-1]
    assert [clip.id for clip in client.list(limit=3, oldest_first=True)] == made[:3]
    client.delete(made[0])
    assert len(list(client.list())) == PAGE + 4
    (model,) = client.models()
    assert model["id"] == "toy"


def test_a_clip_that_ends_otherwise_raises_what_it_ended_with(
    client: rushes.Client, place: Workplace
) -> None:
    clip = client.create("a dog", **SMALL)
    held, _ = lease(place)
    place.jobs.fail(held, error="its worker died 3 times", error_kind="WorkerDied")
    with pytest.raises(WorkerDied, match="died 3 times"):
        clip.wait()
    other = client.create("a dog", **SMALL)
    assert other.cancel().status == "failed"
    with pytest.raises(JobCancelled, match=other.id):
        other.wait()


def test_errors_are_the_librarys_own(client: rushes.Client) -> None:
    with pytest.raises(InvalidRequest, match=r"^width: must be a multiple of 16") as caught:
        client.create("a dog", width=33)
    assert caught.value.field == "width"
    client.create("a dog", **SMALL, idempotency_key="k")
    with pytest.raises(IdempotencyConflict):
        client.create("a cat", **SMALL, idempotency_key="k")
    for call in (client.get, client.delete):
        for name in ("f" * 32, "../models", "", "a/b?c#d"):
            with pytest.raises(UnknownJob):
                call(name)
    with pytest.raises(UnknownBatch):
        client.batch("batch_" + "f" * 32)


def test_keys(place: Workplace) -> None:
    with LocalService(place, has_auth=True) as service:
        keys = service.accounts.keys
        _, reads = keys.create("reads", tenant="a", scopes=("videos:read",))
        _, writes = keys.create("writes", tenant="a", limits=KeyLimits(requests_per_minute=2))
        _, other = keys.create("other", tenant="b")
        with rushes.Client(service.url) as client, pytest.raises(Unauthenticated, match="no key"):
            client.create("a dog")
        with rushes.Client(service.url, "rk_wrong") as client, pytest.raises(Unauthenticated) as caught:
            client.models()
        assert "rk_wrong" not in str(caught.value)
        with rushes.Client(service.url, reads) as client:
            assert reads not in repr(client)
            with pytest.raises(Forbidden) as forbidden:
                client.create("a dog", **SMALL)
            assert forbidden.value.scope == "videos:write"
        with rushes.Client(service.url, writes) as client:
            clip = client.create("a dog", **SMALL)
            clip.refresh()
            with pytest.raises(RateLimited) as limited:
                clip.refresh()
            assert (limited.value.limit, limited.value.used) == (2, 2)
            assert 0 < limited.value.retry_after_s <= 60
            assert str(limited.value).count("try again in") == 1
        with rushes.Client(service.url, other) as client:
            assert list(client.list()) == []
            with pytest.raises(UnknownJob):
                client.get(clip.id)


def test_events_go_on_after_a_restart(service: LocalService, client: rushes.Client, place: Workplace) -> None:
    clip = client.create("a dog", **SMALL)
    held, record = lease(place)

    def run() -> None:
        for unit in range(1, 4):
            place.jobs.append(
                held, "progress", {"stage": "denoise", "units": unit, "total": 3, "seconds": 0.1 * unit}
            )
            time.sleep(0.2)
            if unit == 2:
                service.stop()
                place.jobs.append(held, "preview", {"step": 2, "num_steps": 3})
                service.start()
        place.results.write(result_name(record), b"x")
        place.jobs.finish(held, result=result_name(record), actual_s=1.0)

    worker = later(0.3, run)
    events = list(clip.events())
    worker.join()
    numbered = [event.number for event in events if event.number]
    assert numbered == list(range(1, len(numbered) + 1)), "none is lost, none comes twice"
    assert [event.kind for event in events if event.number] == [
        "queued",
        "progress",
        "progress",
        "preview",
        "progress",
        "completed",
    ]
    assert set(events[-2].data) == {"stage", "units", "total", "seconds"}


def test_a_video_is_streamed_across_a_restart(
    service: LocalService, client: rushes.Client, place: Workplace
) -> None:
    clip = client.create("a dog", **SMALL)
    held, record = lease(place)
    name = result_name(record)
    parts = [bytes([number]) * 100_000 for number in range(3)]

    def run() -> None:
        with place.results.growing(name) as path, path.open("wb") as file:
            for number, part in enumerate(parts):
                file.write(part)
                file.flush()
                time.sleep(0.4)
                if number == 1:
                    service.stop()
                    service.start()
        place.jobs.finish(held, result=name, actual_s=1.0)

    worker = later(0.1, run)
    target = io.BytesIO()
    clip.stream(target)
    worker.join()
    assert target.getvalue() == b"".join(parts)


def test_a_clip_is_created_once_though_its_answer_is_lost(place: Workplace) -> None:
    with LocalService(place) as service, rushes.Client(service.url) as client:
        service.stop()
        back = later(0.5, service.start)
        clip = client.create("a dog", **SMALL)
        back.join()
        assert [each.id for each in client.list()] == [clip.id]
        again = client.create("a dog", **SMALL, idempotency_key="mine")
        assert client.create("a dog", **SMALL, idempotency_key="mine").id == again.id


def test_a_service_that_stays_away() -> None:
    with rushes.Client("http://127.0.0.1:9", "secret-key") as client:
        with pytest.raises(ServiceError, match=r"127\.0\.0\.1:9 cannot be reached") as caught:
            client.models()
        assert "secret-key" not in str(caught.value)


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://x"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(ConfigError, match="http"):
        rushes.Client(url)


def test_a_key_that_is_none_is_not_shown() -> None:
    with pytest.raises(ConfigError, match="printable") as caught:
        rushes.Client("http://127.0.0.1:1", "sëcret")
    assert "cret" not in str(caught.value)


def test_it_loads_neither_torch_nor_a_server() -> None:
    code = (
        "import sys, rushes; rushes.Client;"
        "sys.exit(any(n in sys.modules for n in ('torch','fastapi','starlette','uvicorn','grpc','numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
