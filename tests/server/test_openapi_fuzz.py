"""What /openapi.json promises is what the gateway does, whatever is sent: no 5xx, no status or body that it
does not document."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from running_gateways import Inside, gateway_inside
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from rushes.engine.announcements import Announcement, announce
from rushes.engine.planner import planner_for
from tiny_parts import tiny_model

SECONDS = 30.0
CHECKS = (
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
)
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)


@pytest.fixture(scope="module")
def word() -> Announcement:
    """Of a worker that is there, so that admission decides and `/ready` is."""
    return planner_for(tiny_model()).announcement("fuzz")


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    with gateway_inside(tmp_path_factory.mktemp("fuzz") / "store") as found:
        yield found


def test_every_call_keeps_its_promise(inside: Inside, word: Announcement):
    schema = schemathesis.openapi.from_url(f"{inside.url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 10
    share_s = SECONDS / len(operations) / len(MODES)
    num = 0
    for operation in operations:
        for mode in MODES:
            announce(inside.place.workers, replace(word, at=time.time()))
            num += fuzz(inside, operation, mode, share_s)
    assert num > 4 * len(operations)


class Enough(Exception):
    """Ends the calls of one operation: to make further ones takes longer than to send them."""


def fuzz(inside: Inside, operation, mode: GenerationMode, seconds: float) -> int:
    """So many calls of one operation; those of an id that is known have one half of the time."""
    until, calls = time.monotonic() + seconds, 0
    for record in inside.place.jobs.jobs(statuses=("queued",), limit=1000):  # or the queue would be full
        inside.place.jobs.cancel(record.id)
    known = inside.client.post("/v1/videos", json={"prompt": "x"}).json()["id"]

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=60,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
        derandomize=True,
    )
    def call(case) -> None:
        nonlocal calls
        if time.monotonic() > until:
            raise Enough
        calls += 1
        if calls % 2 and "video_id" in (case.path_parameters or {}):
            case.path_parameters["video_id"] = known
        if case.operation.path.endswith(("/events", "/stream")):
            # These answer for as long as a job goes on.
            inside.client.post(f"/v1/videos/{known}/cancel")
        response = case.call(base_url=inside.url, timeout=20)
        case.validate_response(response, checks=list(CHECKS))

    with suppress(Unsatisfiable, Enough):  # nothing of a call without parameters can be wrong
        call()
    return calls
