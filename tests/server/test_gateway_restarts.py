"""Nothing is lost when a worker or a gateway dies in mid-job, and two gateways are as one."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from running_gateways import (
    Sleeping,
    check_whole,
    client_of,
    created,
    ended,
    events_of,
    sleeping_service,
)

LONG = {"num_frames": 41, "num_inference_steps": 10}
"""0.3 s of steps, then 11 latent frames of 0.03 s."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sleeping]:
    """Its own, as its processes are killed."""
    with sleeping_service(tmp_path_factory.mktemp("restarts")) as running:
        yield running


def wait_for_event(service: Sleeping, video_id: str, kind: str, num: int = 1) -> None:
    with client_of(service.url) as client:
        for event in events_of(client, video_id):
            num -= event["kind"] == kind
            if not num:
                return


def play(url: str, video_id: str, into: list[bytes]) -> threading.Thread:
    def run() -> None:
        with client_of(url) as client:
            into.append(client.get(f"/v1/videos/{video_id}/stream").content)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def watch(url: str, video_id: str, into: list[dict]) -> threading.Thread:
    def run() -> None:
        with client_of(url) as client:
            into.extend(events_of(client, video_id))

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.parametrize(("kind", "num"), [("progress", 4), ("frames", 4)])
def test_a_worker_that_dies_costs_no_event_and_no_byte(service: Sleeping, kind: str, num: int):
    """Killed while it denoises, and half way through the frames that a client plays already."""
    expected = ended(service.client, created(service.client, **LONG, seed=1)["id"])
    whole = service.client.get(f"/v1/videos/{expected['id']}/content").content
    video = created(service.client, **LONG, seed=1, cache="off")
    events: list[dict] = []
    stream: list[bytes] = []
    threads = [watch(service.url, video["id"], events), play(service.url, video["id"], stream)]
    wait_for_event(service, video["id"], kind, num)
    service.worker.kill()
    service.worker = service.service.start_worker()
    for thread in threads:
        thread.join()
    check_whole(events)
    kinds = [event["kind"] for event in events]
    assert (kinds.count("started"), kinds.count("resumed"), kinds[-1]) == (1, 1, "completed")
    frames = [(event["start"], event["num_frames"]) for event in events if event["kind"] == "frames"]
    assert frames == [(0, 1), *((start, 4) for start in range(1, 41, 4))], "told once, whoever made them"
    assert stream == [whole]
    assert service.client.get(f"/v1/videos/{video['id']}/content").content == whole


def test_a_gateway_that_dies_costs_no_event(service: Sleeping):
    video = created(service.client, **LONG, seed=2)
    seen: list[dict] = []

    def watch_and_kill() -> None:
        for event in events_of(service.client, video["id"]):
            seen.append(event)
            if len(seen) == 4:
                service.gateway.kill()

    with pytest.raises(httpx2.TransportError):
        watch_and_kill()
    assert 4 <= len(seen) < 20
    # The same port: clients come again where they were.
    service.gateway, url = service.service.start_gateway(urlsplit(service.url).port or 0)
    assert url == service.url
    seen += events_of(service.client, video["id"], after=seen[-1]["number"])
    check_whole(seen)
    assert seen[-1]["kind"] == "completed"


def test_two_gateways_are_as_one(service: Sleeping):
    _, other_url = service.service.start_gateway()
    with client_of(other_url) as other:
        headers = {"Idempotency-Key": "two-gateways"}
        body = {"prompt": "a dog", "width": 64, "height": 64, "num_frames": 41, "cache": "off"}
        made = [
            client.post("/v1/videos", json=body, headers=headers).json()["id"]
            for client in (service.client, other)
        ]
        assert made[0] == made[1], "the same key at either is the same job"
        events: list[list[dict]] = [[], []]
        streams: list[bytes] = []
        threads = [
            watch(service.url, made[0], events[0]),
            watch(other_url, made[0], events[1]),
            play(service.url, made[0], streams),
            play(other_url, made[0], streams),
        ]
        for thread in threads:
            thread.join()
        assert events[0] == events[1]
        check_whole(events[0])
        assert streams[0] == streams[1] == other.get(f"/v1/videos/{made[0]}/content").content
        listed = [client.get("/v1/videos").json()["data"] for client in (service.client, other)]
        assert [video["id"] for video in listed[0]] == [video["id"] for video in listed[1]]
        late = created(service.client, num_inference_steps=50, seed=3)
        assert other.post(f"/v1/videos/{late['id']}/cancel").status_code == 200
        assert ended(service.client, late["id"])["error"]["code"] == "cancelled"


def test_a_gateway_that_is_asked_to_stop_ends_its_answers_well(service: Sleeping):
    """A stream whose job ends within the time of grace is whole; nothing new is taken; the status is 0."""
    gateway, url = service.service.start_gateway()
    expected = ended(service.client, created(service.client, **LONG, seed=4)["id"])
    with client_of(url) as client:
        video = created(client, **LONG, seed=4)
    stream: list[bytes] = []
    thread = play(url, video["id"], stream)
    wait_for_event(service, video["id"], "frames")
    begin = time.monotonic()
    gateway.popen.send_signal(signal.SIGTERM)
    assert gateway.popen.wait(30) == 0
    assert time.monotonic() - begin < 15
    thread.join()
    paths = [f"/v1/videos/{each['id']}/content" for each in (expected, video)]
    assert stream == [service.client.get(paths[0]).content]
    assert ended(service.client, video["id"])["status"] == "completed"
    assert stream == [service.client.get(paths[1]).content]
    with client_of(url) as client, pytest.raises(httpx2.ConnectError):
        client.get("/health")


def test_an_event_stream_of_a_gateway_that_stops_can_be_gone_on_with(service: Sleeping):
    gateway, url = service.service.start_gateway()
    with client_of(url) as client:
        video = created(client, num_inference_steps=60, seed=5)
        seen = []
        for event in events_of(client, video["id"]):  # ends without an error
            seen.append(event)
            if len(seen) == 3:
                gateway.popen.send_signal(signal.SIGTERM)
    assert seen[-1]["kind"] == "progress", "it was cut off before the job's end"
    assert gateway.popen.wait(30) == 0
    seen += events_of(service.client, video["id"], after=seen[-1]["number"])
    check_whole(seen)


def test_a_worker_that_stops_gives_its_job_back(service: Sleeping, tmp_path: Path):
    video = created(service.client, num_inference_steps=60, seed=6)
    wait_for_event(service, video["id"], "progress", 5)
    assert service.worker.stop() == 0
    record = service.client.get(f"/v1/videos/{video['id']}").json()
    assert (record["status"], record["position"]) == ("queued", 0)
    service.worker = service.service.start_worker()
    events = list(events_of(service.client, video["id"]))
    check_whole(events)
    (resumed,) = [event for event in events if event["kind"] == "resumed"]
    assert resumed["steps"] >= 4, "what was done is kept"
