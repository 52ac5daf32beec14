"""Equal requests share one clip: found, waited for, paid once, and never across tenants."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from benchmarks.service_processes import wait_for
from running_gateways import SMALL, Sleeping, client_of, created, ended, events_of, sleeping_service

SLOW = ("--text-s", "0.002", "--step-s", "0.4", "--decode-s", "0.1")


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sleeping]:
    """A gateway and a worker that takes about two seconds for a clip."""
    with sleeping_service(tmp_path_factory.mktemp("slow"), pace=SLOW) as service:
        yield service


def test_the_same_request_again_is_the_same_clip_at_once(sleeping: Sleeping) -> None:
    first = sleeping.finished(cache="exact", seed=101)
    assert first["cache"]["kind"] == "miss"
    again = sleeping.create(cache="exact", seed=101)
    assert (again["status"], again["progress"]) == ("completed", 100)
    assert again["id"] != first["id"]
    cache = again["cache"]
    assert (cache["kind"], cache["source"], cache["is_in_flight"]) == ("exact", first["id"], False)
    assert cache["seconds_saved"] == pytest.approx(first["actual_s"])
    assert content(sleeping.client, again) == content(sleeping.client, first)
    kinds = [(event["kind"], event["cache"]["kind"]) for event in events_of(sleeping.client, again["id"])]
    assert kinds == [("queued", "exact"), ("completed", "exact")]


@pytest.mark.parametrize(
    "other", [{"seed": 8}, {"prompt": "a cat"}, {"num_inference_steps": 4}, {"width": 96}, {"cache": "off"}]
)
def test_another_request_is_a_miss(sleeping: Sleeping, other: dict[str, object]) -> None:
    sleeping.finished(cache="exact", seed=102)
    found = sleeping.create(**{"seed": 102, "cache": "exact", **other})
    assert found["status"] == "queued"
    assert found["cache"]["kind"] == ("off" if "cache" in other else "miss")


def test_what_was_made_with_cache_off_is_not_for_others(sleeping: Sleeping) -> None:
    sleeping.finished(seed=103, cache="off")
    assert sleeping.create(cache="exact", seed=103)["cache"]["kind"] == "miss"


def test_an_unknown_level_is_refused_by_name(sleeping: Sleeping) -> None:
    answer = sleeping.client.post("/v1/videos", json={**SMALL, "cache": "maybe"})
    error = answer.json()["error"]
    assert (answer.status_code, error["field"], error["value"]) == (400, "cache", "maybe")


def test_a_deleted_original_leaves_the_clip_to_who_took_it(sleeping: Sleeping) -> None:
    first = sleeping.finished(cache="exact", seed=104)
    again = sleeping.create(cache="exact", seed=104)
    data = content(sleeping.client, first)
    assert sleeping.client.delete(f"/v1/videos/{first['id']}").status_code == 200
    assert content(sleeping.client, again) == data
    third = sleeping.create(cache="exact", seed=104)
    assert third["cache"]["kind"] == "exact"
    assert content(sleeping.client, third) == data


def test_a_twin_sees_its_originals_work_and_stream(slow: Sleeping) -> None:
    _, url = slow.service.start_gateway()
    with client_of(url) as other:
        original = slow.create(cache="exact", seed=105)
        twin = created(other, cache="exact", seed=105)
        assert (twin["status"], twin["cache"]["kind"]) == ("queued", "exact")
        assert twin["cache"]["source"] == original["id"]
        with other.stream("GET", f"/v1/videos/{twin['id']}/stream") as answer:
            streamed = answer.read()
    found = slow.client.get(f"/v1/videos/{twin['id']}").json()
    assert found["status"] == "completed"
    assert streamed == content(slow.client, found) == content(slow.client, original)
    assert (found["actual_s"], found["cache"]["is_in_flight"]) == (0.0, True)


def test_a_twins_watcher_gets_progress_without_numbers(slow: Sleeping) -> None:
    slow.create(cache="exact", seed=106)
    twin = slow.create(cache="exact", seed=106)
    kinds = unnumbered(slow.client, twin["id"])
    assert "progress" in kinds
    assert "frames" in kinds
    numbered = [event["kind"] for event in events_of(slow.client, twin["id"])]
    assert numbered == ["queued", "completed"]


def test_a_twin_survives_the_gateway_that_made_its_original(tmp_path: Path) -> None:
    with sleeping_service(tmp_path, pace=SLOW) as running:
        _, url = running.service.start_gateway()
        with client_of(url) as other:
            first = running.create(cache="exact", seed=107)
            twin = created(other, cache="exact", seed=107)
            assert twin["cache"]["source"] == first["id"]
            running.gateway.kill()
            assert ended(other, twin["id"])["status"] == "completed"


def test_a_twin_survives_the_worker_and_the_cancellation_of_its_original(tmp_path: Path) -> None:
    with sleeping_service(tmp_path, pace=SLOW) as running:
        first = running.create(cache="exact", seed=108)
        twins = [running.create(cache="exact", seed=108) for _ in range(2)]
        wait_for(lambda: status(running.client, first) == "in_progress")
        running.worker.kill()
        running.service.start_worker()
        wait_for(lambda: status(running.client, first) == "in_progress")
        running.client.post(f"/v1/videos/{first['id']}/cancel")
        found = [ended(running.client, twin["id"]) for twin in twins]
        assert [video["status"] for video in found] == ["completed", "completed"]
        assert content(running.client, found[0]) == content(running.client, found[1])


def test_a_twin_that_is_cancelled_leaves_its_original_alone(slow: Sleeping) -> None:
    original = slow.create(cache="exact", seed=109)
    twin = slow.create(cache="exact", seed=109)
    assert slow.client.post(f"/v1/videos/{twin['id']}/cancel").json()["error"]["code"] == "cancelled"
    assert ended(slow.client, original["id"])["status"] == "completed"


def content(client: httpx2.Client, video: dict[str, object]) -> bytes:
    answer = client.get(f"/v1/videos/{video['id']}/content")
    assert answer.status_code == 200, answer.text
    return answer.content


def status(client: httpx2.Client, video: dict[str, object]) -> object:
    return client.get(f"/v1/videos/{video['id']}").json()["status"]


def unnumbered(client: httpx2.Client, video_id: str) -> list[str]:
    """Kinds of a job's events that have no number, up to its end."""
    kinds, kind = [], ""
    with client.stream("GET", f"/v1/videos/{video_id}/events") as answer:
        for line in answer.iter_lines():
            name, _, value = line.partition(": ")
            kind = value if name == "event" else kind
            if name == "data" and json.loads(value)["number"] is None:
                kinds.append(kind)
    return kinds
