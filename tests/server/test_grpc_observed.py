"""What is told of gRPC's calls, by a real channel: spans at a collector, metrics, the access log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.struct_pb2 import Struct
from running_service import SMALL, serving

from otlp_receiver import Received, otlp_receiver, values
from rushes.engine.otlp import tracer_provider
from rushes.engine.workplace import Workplace
from rushes.server.feed import Feed
from rushes.server.gateway import Gateway
from rushes.server.grpc_edge import GrpcEdge
from rushes.server.grpc_observed import NAME, address_of
from rushes.server.metrics import GatewayMetrics
from rushes.server.proto.rushes.v1 import videos_pb2, videos_pb2_grpc
from rushes.server.service import Service

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
INCOMING = (("traceparent", f"00-{TRACE}-{PARENT}-01"), ("x-request-id", "req_mine"))
PROMPT = "a hidden dog"


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a service told of one test's calls."""

    place: Workplace
    gateway: Gateway
    metrics: GatewayMetrics
    received: Received
    log: pytest.LogCaptureFixture

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)

    def records(self) -> list[logging.LogRecord]:
        return [record for record in self.log.records if record.name == "rushes.access"]


@pytest.fixture
def run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> Callable[[Callable[[Any, Told], Awaitable[None]]], Told]:
    """Runs a test that takes a stub; returns what was told when all is delivered."""
    caplog.set_level(logging.INFO, "rushes.access")

    def run_(test: Callable[[Any, Told], Awaitable[None]]) -> Told:
        with otlp_receiver() as received:
            with (
                Workplace(tmp_path / "store") as place,
                tracer_provider("rushes-gateway", received.url) as tracing,
            ):
                metrics = GatewayMetrics(place.jobs)
                gateway = Gateway(place, Feed(place.jobs), models=("toy",))
                told = Told(place=place, gateway=gateway, metrics=metrics, received=received, log=caplog)
                service = Service(gateway=gateway, metrics=metrics, tracer=tracing.tracer)
                asyncio.run(_with_stub(service, lambda stub: test(stub, told)))
            return told

    return run_


async def _with_stub(service: Service, test: Callable[[Any], Awaitable[None]]) -> None:
    service.gateway.feed.start()
    edge = GrpcEdge(service, host="127.0.0.1", port=0, drain_s=5.0)
    await edge.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{edge.port}") as channel:
        try:
            await test(videos_pb2_grpc.VideosStub(channel))
            async with asyncio.timeout(5.0):
                while edge.num_open:  # a call that was cancelled ends a moment later
                    await asyncio.sleep(0.01)
        finally:
            await edge.stop()
            service.gateway.feed.stop()


def ask(**fields: Any) -> videos_pb2.CreateRequest:
    struct = Struct()
    struct.update({**SMALL, **fields})
    return videos_pb2.CreateRequest(prompt=PROMPT, fields=struct)


def test_a_call_goes_on_from_the_callers_trace_and_its_job_from_the_call(run: Any) -> None:
    made: list[Any] = []

    async def test(stub: Any, told: Told) -> None:
        call = stub.Create(ask(), metadata=INCOMING)
        made.append(await call)
        trailers = dict(await call.trailing_metadata())
        assert (trailers["x-trace-id"], trailers["x-request-id"]) == (TRACE, "req_mine")
        traceparent = told.place.jobs.get(made[0].id).options.traceparent
        assert traceparent is not None
        made.append(traceparent)
        fresh = stub.Get(videos_pb2.GetRequest(id=made[0].id))
        await fresh
        assert dict(await fresh.trailing_metadata())["x-trace-id"] != TRACE

    told = run(test)
    span = told.received.one(f"{NAME}/Create")
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert made[1] == f"00-{TRACE}-{span.span_id.hex()}-01"
    assert values(span.attributes) == {
        "rpc.system": "grpc",
        "rpc.service": NAME,
        "rpc.method": "Create",
        "rpc.grpc.status_code": 0,
    }
    first = told.records()[0]
    assert (first.method, first.route, first.status, first.grpc_code) == (
        "gRPC",
        f"/{NAME}/Create",
        200,
        "OK",
    )
    assert (first.client, first.code) == ("127.0.0.1", None)
    assert first.bytes == made[0].ByteSize()
    assert PROMPT not in str(told.received.spans) + told.log.text


def test_an_error_is_counted_and_logged_by_its_code(run: Any) -> None:
    async def test(stub: Any, told: Told) -> None:
        for call in (
            stub.Get(videos_pb2.GetRequest(id="0" * 32), metadata=INCOMING),
            stub.Create(ask(width=33)),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            trailers = dict(caught.value.trailing_metadata() or ())
            assert "x-trace-id" in trailers
            assert "x-request-id" in trailers
        told.place.jobs.close()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Get(videos_pb2.GetRequest(id="0" * 32))
        assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL)

    told = run(test)
    requests = "rushes_grpc_requests_total"
    assert told.value(requests, method="Get", code="NOT_FOUND") == 1
    assert told.value(requests, method="Create", code="INVALID_ARGUMENT") == 1
    refused, lost, broken = sorted(told.records(), key=lambda record: record.status)  # told when each is over
    assert (refused.status, refused.code) == (400, "invalid_request")
    assert (lost.status, lost.code, lost.levelname) == (404, "not_found", "INFO")
    assert (broken.status >= 500, broken.levelname) == (True, "WARNING")
    first, second = told.received.named(f"{NAME}/Get")
    assert values(first.attributes)["rpc.grpc.status_code"] == grpc.StatusCode.NOT_FOUND.value[0]
    assert (first.status.code, second.status.code) == (0, 2), "only the service's own errors are errors"


def test_a_stream_is_open_while_it_goes_on_and_a_caller_may_leave(run: Any) -> None:
    async def test(stub: Any, told: Told) -> None:
        made = await stub.Create(ask())
        watch = stub.Watch(videos_pb2.WatchRequest(id=made.id))
        await watch.read()
        assert told.value("rushes_grpc_open_requests", method="Watch") == 1
        assert told.value("rushes_grpc_requests_total", method="Watch", code="CANCELLED") is None
        assert told.value("rushes_grpc_response_start_seconds_count", method="Watch") == 1
        await asyncio.sleep(0.3)
        watch.cancel()

    told = run(test)
    assert told.value("rushes_grpc_open_requests", method="Watch") == 0
    assert told.value("rushes_grpc_requests_total", method="Watch", code="CANCELLED") == 1
    assert told.value("rushes_grpc_response_bytes_total", method="Watch") > 0
    assert told.value("rushes_grpc_response_start_seconds_sum", method="Watch") < 0.2
    left = told.records()[-1]
    assert (left.status, left.grpc_code, left.levelname) == (499, "CANCELLED", "INFO")
    assert left.seconds > 0.3
    span = told.received.one(f"{NAME}/Watch")
    assert span.status.code == 0
    assert span.end_time_unix_nano - span.start_time_unix_nano > 300_000_000


def test_refusals_for_want_of_room_are_counted_with_those_of_http(run: Any) -> None:
    async def test(stub: Any, told: Told) -> None:
        told.metrics.refused("draining")
        told.gateway.is_draining = True
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.Create(ask())

    told = run(test)
    assert told.value("rushes_refused_total", code="draining") == 2
    assert told.value("rushes_grpc_requests_total", method="Create", code="UNAVAILABLE") == 1


@pytest.mark.parametrize(
    ("peer", "address"),
    [("ipv4:10.0.0.7:5005", "10.0.0.7"), ("ipv6:%5B2001:db8::1%5D:443", "2001:db8::1"), ("unix:", "")],
)
def test_a_callers_address(peer: str, address: str) -> None:
    assert address_of(peer) == address


def test_a_workers_trace_hangs_below_the_call(tmp_path: Path) -> None:
    async def make(address: str) -> str:
        async with grpc.aio.insecure_channel(address) as channel:
            stub = videos_pb2_grpc.VideosStub(channel)
            made = await stub.Create(ask(seed=7), metadata=INCOMING)
            async for response in stub.Watch(videos_pb2.WatchRequest(id=made.id)):
                kind = response.event.kind
            return str(kind)

    with otlp_receiver() as received:
        with serving(tmp_path, "--no-auth", "--otlp", received.url) as running:
            assert asyncio.run(make(running.grpc)) == "completed"
        call, job = received.one(f"{NAME}/Create"), received.one("request")
        assert call.parent_span_id.hex() == PARENT
        assert job.parent_span_id == call.span_id
        below = [each for each in received.spans if each.trace_id == call.trace_id]
        assert {"text_encode", "denoise", "vae_decode"} <= {each.name for each in below}
