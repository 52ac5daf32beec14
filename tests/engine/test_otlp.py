"""Spans of jobs beneath whoever asked, received by a real OTLP/HTTP collector, which may be away."""

from __future__ import annotations

import time

import pytest
from engine_parts import working

from otlp_receiver import otlp_receiver, values
from rushes.engine.client import Poll, StoreClient, result
from rushes.engine.job_spans import collecting
from rushes.engine.otel_spans import SpanExport
from rushes.engine.otlp import Batches, tracer_provider
from rushes.errors import ConfigError
from rushes.trace import begin, end, span, under
from rushes.types import JobOptions
from tiny_parts import request

STEPS, LATENTS = 3, 3


def test_a_jobs_spans_lie_beneath_the_gateways(tmp_path) -> None:
    with otlp_receiver() as received:
        with tracer_provider("rushes-gateway", received.url) as gateway:
            asked = gateway.tracer.start_span("POST /v1/videos")
            context = asked.get_span_context()
            traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-01"
            with (
                tracer_provider("rushes-worker", received.url, "w1") as worker,
                collecting(SpanExport(worker.tracer)),
                working(tmp_path / "store") as place,
            ):
                client = StoreClient(place.store, watch=Poll(0.002))
                options = JobOptions(tenant="acme", traceparent=traceparent)
                job_id = client.submit(request("a hidden dog"), options)
                result(client, job_id)
            asked.end()
        assert received.services == {"rushes-gateway", "rushes-worker"}
        assert {each.trace_id.hex() for each in received.spans} == {f"{context.trace_id:032x}"}
        top = received.one("request")
        assert top.parent_span_id == received.one("POST /v1/videos").span_id
        assert top.kind == 5  # consumer
        assert values(top.attributes)["rushes.job_id"] == job_id
        units = received.named("denoise")
        assert [values(each.attributes)["rushes.step"] for each in units] == [*range(STEPS)]
        assert {each.parent_span_id for each in units} == {top.span_id}
        assert all(
            each.parent_span_id in {unit.span_id for unit in units} for each in received.named("forward")
        )
        assert len(received.named("vae_decode")) == LATENTS
        (first, *_) = sorted(received.named("queue"), key=lambda each: each.start_time_unix_nano)
        assert abs(first.start_time_unix_nano - top.start_time_unix_nano) < 1e6
        for each in received.spans:
            assert each.start_time_unix_nano <= each.end_time_unix_nano
        assert "acme" not in str(received.spans)
        assert "hidden dog" not in str(received.spans)


def test_shared_units_stand_in_every_jobs_trace_without_the_others_names() -> None:
    with otlp_receiver() as received:
        with (
            tracer_provider("rushes-worker", received.url) as worker,
            collecting(SpanExport(worker.tracer)),
        ):
            roots = [begin("request", job=name) for name in ("one", "two")]
            with under(None), span("denoise", jobs="one,two", batch=2), span("forward"):
                pass
            for root in roots:
                end(root)
        assert len(received.named("denoise")) == len(received.named("forward")) == 2
        tops = {values(each.attributes)["rushes.job_id"]: each for each in received.named("request")}
        for each in received.named("denoise"):
            job_id = values(each.attributes)["rushes.job_id"]
            assert each.trace_id == tops[job_id].trace_id
            assert each.parent_span_id == tops[job_id].span_id
            other = "two" if job_id == "one" else "one"
            assert other not in str(values(each.attributes).values())


@pytest.mark.parametrize("trouble", ["refused", "error"])
def test_a_collector_that_is_away_costs_a_count(trouble: str, caplog) -> None:
    with otlp_receiver() as received:
        received.status = 400
        url = received.url if trouble == "error" else "http://127.0.0.1:9"
        with tracer_provider("rushes-worker", url) as tracing:
            assert tracing.batches is not None
            start = time.perf_counter()
            for _ in range(2_000):
                tracing.tracer.start_span("x").end()
            assert time.perf_counter() - start < 1.5
        assert tracing.batches.num_dropped == 2_000
        assert tracing.batches.num_sent == 0
        assert caplog.text.count("no spans can be delivered") == 1


def test_spans_beyond_the_queue_are_dropped_and_counted() -> None:
    with otlp_receiver() as received, tracer_provider("rushes-worker", received.url) as tracing:
        exporter = tracing.batches._exporter
        batches = Batches(exporter, most_queued=10, delay_s=60)
        for _ in range(25):
            batches.on_end(tracing.tracer.start_span("x"))
        assert batches.num_dropped == 15
        batches.shutdown()
        assert batches.num_sent == 10
        batches.shutdown()


def test_spans_are_delivered_again_when_the_collector_is_back(caplog) -> None:
    with otlp_receiver() as received, tracer_provider("rushes-worker", received.url) as tracing:
        received.status = 400
        tracing.tracer.start_span("lost").end()
        assert tracing.batches.force_flush()
        received.status = 200
        tracing.tracer.start_span("kept").end()
        assert tracing.batches.force_flush()
        assert [each.name for each in received.spans] == ["kept"]
        assert (tracing.batches.num_sent, tracing.batches.num_dropped) == (1, 1)
    assert "delivered again" in caplog.text


def test_an_address_that_is_none_is_refused() -> None:
    with (
        pytest.raises(ConfigError, match="no http:// or https:// URL"),
        tracer_provider("x", "localhost:4318"),
    ):
        pass
