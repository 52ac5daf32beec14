"""Gateways for tests: real processes with a sleeping worker, and one inside the test's own process."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx2
from benchmarks.service_processes import Process, Service

from rushes.engine.workplace import Workplace
from rushes.server.bounds import Bounds
from rushes.server.feed import Feed
from rushes.server.run import Server, listen, make_config, opened_service, url_of
from rushes.server.settings import ServerSettings
from rushes.stores.sqlite import SqliteJobStore
from rushes.types import FINAL

PACE = ("--text-s", "0.002", "--step-s", "0.03", "--decode-s", "0.03")
LEASE_S = "1"
SMALL: dict[str, Any] = {
    "prompt": "a dog",
    "width": 64,
    "height": 64,
    "num_frames": 9,
    "num_inference_steps": 3,
    "seed": 7,
    "cache": "off",  # every clip is made
}


@dataclass(slots=True)
class Sleeping:
    """A running service and its first gateway and worker."""

    service: Service
    gateway: Process
    worker: Process
    url: str
    client: httpx2.Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = client_of(self.url)

    def create(self, **fields: Any) -> dict[str, Any]:
        return created(self.client, **fields)

    def finished(self, **fields: Any) -> dict[str, Any]:
        """A new video, completed."""
        return ended(self.client, self.create(**fields)["id"])


def client_of(url: str) -> httpx2.Client:
    return httpx2.Client(base_url=url, timeout=60.0)


def created(client: httpx2.Client, **fields: Any) -> dict[str, Any]:
    answer = client.post("/v1/videos", json={**SMALL, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def ended(client: httpx2.Client, video_id: str) -> dict[str, Any]:
    """The video when its job has ended."""
    for _ in events_of(client, video_id):
        pass
    return client.get(f"/v1/videos/{video_id}").json()


def events_of(client: httpx2.Client, video_id: str, after: int | None = None) -> Iterator[dict[str, Any]]:
    """A job's events as they come, those with a number only."""
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    with client.stream("GET", f"/v1/videos/{video_id}/events", headers=headers) as answer:
        assert answer.status_code == 200, answer.read()
        fields: dict[str, str] = {}
        for line in answer.iter_lines():
            name, _, value = line.partition(": ")
            if line:
                fields[name] = value
                continue
            if "data" in fields and "id" in fields:
                data = json.loads(fields["data"])
                assert data["number"] == int(fields["id"])
                yield {**data, "kind": fields["event"]}
            fields = {}


def check_whole(events: Sequence[dict[str, Any]]) -> None:
    """Every number once, in order, and one end."""
    assert [event["number"] for event in events] == list(range(1, len(events) + 1))
    assert [event["kind"] in FINAL for event in events] == [False] * (len(events) - 1) + [True]


@contextmanager
def sleeping_service(folder: Path, *, pace: Sequence[str] = PACE) -> Iterator[Sleeping]:
    flags = ("--max-batch", "1", "--lease", LEASE_S, "--checkpoint-every", "1")
    with Service(folder, worker=flags, pace=pace) as service:
        gateway, url = service.start_gateway()
        running = Sleeping(service, gateway, service.start_worker(), url)
        with running.client:
            yield running


@dataclass(slots=True)
class Inside:
    """A gateway in this process, without a worker."""

    url: str
    place: Workplace
    server: Server
    feed: Feed
    client: httpx2.Client

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").partition(":")
        return host, int(port)


@contextmanager
def gateway_inside(
    folder: Path, *, bounds: Bounds | None = None, timeout_s: float | None = None, app=None, **settings: Any
) -> Iterator[Inside]:
    """Real sockets around the real application.

    Args:
        timeout_s: how long the store waits for its turn.
        app: another application, made of ours.
    """
    asked = ServerSettings(store=folder, port=0, has_auth=False, drain_s=1.0, **settings)
    ready = threading.Event()
    with ExitStack() as stack:
        found = stack.enter_context(listen(asked))
        place = stack.enter_context(Workplace(folder))
        if timeout_s is not None:
            place.jobs.close()
            place.jobs = SqliteJobStore(folder / "jobs.sqlite", timeout_s=timeout_s)
        service = stack.enter_context(opened_service(place, asked))
        config = make_config(service if bounds is None else replace(service, bounds=bounds), asked)
        if app is not None:
            config.app = app(config.app)
        server = Server(config, ready.set, service.gateway.drain)
        thread = threading.Thread(target=server.run, args=([found],))
        thread.start()
        try:
            assert ready.wait(30)
            url = url_of(asked, found)
            with client_of(url) as client:
                yield Inside(url, place, server, service.gateway.feed, client)
        finally:
            server.should_exit = True
            thread.join()
