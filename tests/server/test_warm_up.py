"""Requests of a file are made before anybody asks: once, and only what is not there."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from benchmarks.service_processes import wait_for
from hand_worker import HandWorker

from rushes.engine.workplace import Workplace
from rushes.errors import ConfigError
from rushes.server.auth import LOCAL
from rushes.server.gateway import Gateway
from rushes.server.run import opened_service
from rushes.server.settings import ServerSettings
from rushes.server.warm_up import read_warm_file
from rushes.server.wishes import Wish
from rushes.stores.base import JobRecord

SIZE: dict[str, Any] = {"width": 64, "height": 64, "num_frames": 9, "num_inference_steps": 4}
HOT = {"prompt": "a red ball rolls over fresh snow", **SIZE}
LINES = f"""
# what everybody asks for
{json.dumps(HOT)}
  {json.dumps({**HOT, "prompt": "a cat sleeps", "seed": 7})}
{json.dumps({**HOT, "width": 63})}
a dog runs
"""


@contextmanager
def opened(folder: Path, **settings: Any) -> Iterator[Gateway]:
    asked = ServerSettings(store=folder / "store", has_auth=False, **settings)
    with Workplace(folder / "store") as place, opened_service(place, asked) as service:
        yield service.gateway


@pytest.fixture
def warm(tmp_path: Path) -> Path:
    file = tmp_path / "hot.txt"
    file.write_text(LINES)
    return file


def queued(gateway: Gateway, tenant: str = LOCAL.tenant) -> list[JobRecord]:
    return list(gateway.place.jobs.jobs(tenant=tenant, oldest_first=True))


def test_once_a_worker_is_there_they_are_queued_in_the_batch_lane(
    tmp_path: Path, warm: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(tmp_path, warm=warm) as gateway:
        time.sleep(0.3)
        assert not queued(gateway), "nobody can tell what a clip would be"
        HandWorker(place=gateway.place).announce()
        wait_for(lambda: len(queued(gateway)) == 3)
        jobs = queued(gateway)
    assert [job.request.prompt for job in jobs] == [HOT["prompt"], "a cat sleeps", "a dog runs"]
    assert [job.request.sampling.seed for job in jobs] == [0, 7, 0]
    assert {job.options.lane for job in jobs} == {"batch"}
    assert f"{warm}:5: is left out" in caplog.text


def test_who_asks_then_has_it_at_once(tmp_path: Path, warm: Path) -> None:
    with opened(tmp_path, warm=warm) as gateway:
        worker = HandWorker(place=gateway.place)
        worker.announce()
        wait_for(lambda: len(queued(gateway)) == 3)
        made = worker.complete()
        request, options = gateway.ask({**HOT, "seed": 0}, tenant=LOCAL.tenant)
        hit = gateway.create(request, options, LOCAL, Wish(has_seed=True))
        assert gateway.video(hit)["cache"]["kind"] == "exact"
        assert gateway.video(hit)["cache"]["source"] == made.id


def test_what_is_there_already_is_not_made_again(tmp_path: Path, warm: Path) -> None:
    with opened(tmp_path) as gateway:
        worker = HandWorker(place=gateway.place)
        worker.announce()
        request, options = gateway.ask({**HOT, "seed": 0}, tenant=LOCAL.tenant)
        gateway.create(request, options, LOCAL)
        worker.complete()
    for _ in range(2):  # two starts
        with opened(tmp_path, warm=warm) as gateway:
            HandWorker(place=gateway.place).announce()
            wait_for(lambda: len(queued(gateway)) == 3)
            time.sleep(1.2)
            assert len(queued(gateway)) == 3


def test_what_failed_or_lost_its_file_is_made_again(tmp_path: Path, warm: Path) -> None:
    warm.write_text(json.dumps(HOT))
    with opened(tmp_path, warm=warm) as gateway:
        worker = HandWorker(place=gateway.place)
        worker.announce()
        wait_for(lambda: len(queued(gateway)) == 1)
        gateway.cancel(LOCAL.tenant, queued(gateway)[0].id)
    with opened(tmp_path, warm=warm) as gateway:
        HandWorker(place=gateway.place).announce()
        wait_for(lambda: len(queued(gateway)) == 2)
        made = HandWorker(place=gateway.place).complete()
        assert made.result is not None
        gateway.place.results.path(made.result).unlink()
    with opened(tmp_path, warm=warm) as gateway:
        HandWorker(place=gateway.place).announce()
        wait_for(lambda: len(queued(gateway)) == 3)


@pytest.mark.parametrize("field", ["priority", "deadline_s", "cache"])
def test_a_line_cannot_leave_the_batch_lane(tmp_path: Path, field: str) -> None:
    file = tmp_path / "hot.jsonl"
    file.write_text(json.dumps({**HOT, field: "on"}))
    with pytest.raises(ConfigError, match=field):
        read_warm_file(file)


def test_the_tenant_of_whom_it_is(tmp_path: Path, warm: Path) -> None:
    with opened(tmp_path, warm=warm, warm_tenant="acme") as gateway:
        HandWorker(place=gateway.place).announce()
        wait_for(lambda: len(queued(gateway, "acme")) == 3)
        assert not queued(gateway)


@pytest.mark.parametrize(
    ("text", "says"),
    [("a cat\n{", r"hot.txt:2: is not JSON"), ('{"seed": 1}', "has no prompt"), (None, "No such file")],
)
def test_what_is_no_file_of_requests(tmp_path: Path, text: str | None, says: str) -> None:
    file = tmp_path / "hot.txt"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=says):
        read_warm_file(file)
