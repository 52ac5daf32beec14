"""A span for every request, received by a real OTLP/HTTP collector."""

from __future__ import annotations

import time

import httpx2
from observed_app import served

from otlp_receiver import otlp_receiver, values
from rushes.engine.otlp import tracer_provider
from rushes.server.metrics import GatewayMetrics

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
INCOMING = f"00-{TRACE}-{PARENT}-01"


def test_a_request_goes_on_from_the_callers_trace() -> None:
    with otlp_receiver() as received:
        with (
            tracer_provider("rushes-gateway", received.url) as tracing,
            served(GatewayMetrics(), tracing.tracer) as url,
        ):
            for path in ("/v1/videos/7", "/thread/7"):
                answer = httpx2.get(f"{url}{path}?key=rk_secret", headers={"traceparent": INCOMING})
                assert answer.headers["x-trace-id"] == TRACE
                here = answer.json()["here"]
                assert here.split("-")[1] == TRACE
                assert here.split("-")[2] != PARENT
                assert answer.json()["state"] in (here, None)
            fresh = httpx2.get(f"{url}/v1/videos/8")
            assert len(fresh.headers["x-trace-id"]) == 32 != TRACE
            broken = httpx2.get(f"{url}/v1/videos/8", headers={"traceparent": "00-zz-1"})
            assert len(broken.headers["x-trace-id"]) == 32
            httpx2.get(f"{url}/health")
            httpx2.get(f"{url}/nowhere")
        found = received.named("GET /v1/videos/{video_id}")
        assert len(found) == 3
        first = next(each for each in found if each.trace_id.hex() == TRACE)
        assert first.parent_span_id.hex() == PARENT
        told = values(first.attributes)
        assert told["http.response.status_code"] == 200
        assert told["url.path"] == "/v1/videos/7"
        assert "rk_secret" not in str(received.spans)
        assert received.one("GET other").status.code == 0
        assert not [each for each in received.spans if values(each.attributes)["url.path"] == "/health"]
        assert received.services == {"rushes-gateway"}


def test_a_stream_is_not_held_back_and_its_span_lasts_as_long() -> None:
    with otlp_receiver() as received:
        with (
            tracer_provider("rushes-gateway", received.url) as tracing,
            served(GatewayMetrics(), tracing.tracer) as url,
            httpx2.stream("GET", f"{url}/v1/videos/1/events") as answer,
        ):
            times = [time.monotonic() for _ in answer.iter_raw()]
        assert times[-1] - times[0] > 0.1
        (made,) = received.spans
        assert made.end_time_unix_nano - made.start_time_unix_nano > 200_000_000


def test_an_error_is_named_and_its_message_is_not() -> None:
    with otlp_receiver() as received:
        with (
            tracer_provider("rushes-gateway", received.url) as tracing,
            served(GatewayMetrics(), tracing.tracer) as url,
        ):
            headers = {"authorization": "Bearer rk_secretsecret"}
            answer = httpx2.post(f"{url}/v1/videos", json={"prompt": "a hidden dog"}, headers=headers)
            assert answer.status_code == 500
        (made,) = received.spans
        assert (made.status.code, made.status.message) == (2, "ValueError")
        assert "hidden dog" not in str(made)
        assert "rk_secretsecret" not in str(made)
