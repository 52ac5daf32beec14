"""gRPC with a real channel: over a gateway whose worker is the test, and over `rushes serve`."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.struct_pb2 import Struct
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from running_service import SMALL, serving

from rushes.engine.workplace import Workplace, result_name
from rushes.errors import ConfigError
from rushes.server.auth import Authenticator
from rushes.server.bounds import Bounds
from rushes.server.feed import Feed
from rushes.server.gateway import Gateway
from rushes.server.grpc_edge import NAME, GrpcEdge, check_port
from rushes.server.limits import Limits
from rushes.server.proto.rushes.v1 import videos_pb2, videos_pb2_grpc
from rushes.server.service import Service
from rushes.stores.accounts import AccountStore
from rushes.stores.api_keys import KeyLimits
from rushes.stores.base import Lease

ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def edge_over(place: Workplace, **settings: Any) -> AsyncIterator[tuple[GrpcEdge, Any]]:
    """A listening edge and a channel to it."""
    service = Service(gateway=Gateway(place, Feed(place.jobs), models=("toy",)), **settings.pop("parts", {}))
    service.gateway.feed.start()
    edge = GrpcEdge(service, host="127.0.0.1", port=0, drain_s=5.0, **settings)
    await edge.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{edge.port}") as channel:
        try:
            yield edge, channel
        finally:
            await edge.stop()
            service.gateway.feed.stop()


def run(place: Workplace, test: Callable[[Any], Awaitable[None]], **settings: Any) -> None:
    """A test that takes a stub."""

    async def with_stub() -> None:
        async with edge_over(place, **settings) as (_, channel):
            await test(videos_pb2_grpc.VideosStub(channel))

    asyncio.run(with_stub())


@pytest.fixture
def place(tmp_path: Path) -> Any:
    with Workplace(tmp_path / "store") as found:
        yield found


def ask(prompt: str = "a dog", **fields: Any) -> videos_pb2.CreateRequest:
    known = videos_pb2.CreateRequest.DESCRIPTOR.fields_by_name
    struct = Struct()
    struct.update({name: value for name, value in {**SMALL, **fields}.items() if name not in known})
    return videos_pb2.CreateRequest(
        prompt=prompt,
        fields=struct,
        **{name: value for name, value in fields.items() if name in known},
    )


async def failure(call: Awaitable[Any]) -> tuple[grpc.StatusCode, dict[str, Any]]:
    """Status and the error object of a call that fails."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    trailers = dict(caught.value.trailing_metadata() or ())
    error = json.loads(trailers["rushes-error-bin"])
    assert trailers["rushes-code"] == error["code"]
    assert trailers["x-request-id"] == error["request_id"]
    return caught.value.code(), error


def lease(place: Workplace) -> tuple[Lease, str]:
    """The oldest job for this process as its worker, and the name of its file."""
    (record,) = place.jobs.lease("w", pipelines=["toy"], limit=1, ttl_s=60)
    return Lease(job_id=record.id, owner="w", token=record.token), result_name(record)


def test_calls(place: Workplace) -> None:
    async def test(stub: Any) -> None:
        made = await stub.Create(ask(seed=2**62 + 1, priority="batch", preview_every=2, guidance_high=2.5))
        assert (made.status, made.size, made.seed, made.priority) == ("queued", "64x64", 2**62 + 1, "batch")
        assert made.fields["num_frames"] == 5
        assert made.fields["guidance_high"] == 2.5
        assert place.jobs.get(made.id).options.preview_every == 2
        assert await stub.Get(videos_pb2.GetRequest(id=made.id)) == made
        second = await stub.Create(ask("a cat"))
        listed = await stub.List(videos_pb2.ListRequest(limit=1))
        assert ([video.id for video in listed.videos], listed.has_more) == ([second.id], True)
        listed = await stub.List(videos_pb2.ListRequest(after=second.id))
        assert ([video.id for video in listed.videos], listed.has_more) == ([made.id], False)
        listed = await stub.List(videos_pb2.ListRequest(oldest_first=True))
        assert [video.id for video in listed.videos] == [made.id, second.id]
        cancelled = await stub.Cancel(videos_pb2.CancelRequest(id=made.id))
        assert (cancelled.status, cancelled.error.code) == ("failed", "cancelled")
        assert (await stub.Delete(videos_pb2.DeleteRequest(id=made.id))).id == made.id
        code, error = await failure(stub.Get(videos_pb2.GetRequest(id=made.id)))
        assert (code, error["code"]) == (grpc.StatusCode.NOT_FOUND, "not_found")

    run(place, test)


@pytest.mark.parametrize(
    ("request_", "field", "says"),
    [
        (ask(width=33), "width", "multiple of 16"),
        (ask(solver="eular"), "solver", "did you mean 'euler'"),
        (ask(wdth=64), "wdth", "did you mean 'width'"),
        (ask(seed=-1), "seed", "a whole number from 0"),
        (ask(num_inference_steps=float(2**60)), "num_inference_steps", "beyond the whole numbers"),
        (ask(num_frames=[5]), "num_frames", "not a list"),
        (videos_pb2.CreateRequest(), "prompt", "is required"),
        (ask(priority="soon"), "priority", "one of interactive, batch"),
        (ask(deadline_s=float("nan")), "deadline_s", "must be a number"),
        (ask(idempotency_key="ä"), "Idempotency-Key", "ASCII"),
    ],
)
def test_a_field_is_blamed_as_over_http(
    place: Workplace, request_: videos_pb2.CreateRequest, field: str, says: str
) -> None:
    async def test(stub: Any) -> None:
        code, error = await failure(stub.Create(request_))
        assert (code, error["code"]) == (grpc.StatusCode.INVALID_ARGUMENT, "invalid_request")
        assert error["field"] == field
        assert says in error["rule"]

    run(place, test)


def test_a_field_is_given_once(place: Workplace) -> None:
    async def test(stub: Any) -> None:
        request = ask()
        request.fields.update({"prompt": "a cat"})
        _, error = await failure(stub.Create(request))
        assert error["field"] == "prompt"

    run(place, test)


def test_the_same_key_is_the_same_video(place: Workplace) -> None:
    async def test(stub: Any) -> None:
        ids = {(await stub.Create(ask(idempotency_key="k"))).id for _ in range(2)}
        assert len(ids) == 1
        code, error = await failure(stub.Create(ask("a cat", idempotency_key="k")))
        assert (code, error["code"]) == (grpc.StatusCode.ALREADY_EXISTS, "idempotency_conflict")

    run(place, test)


def test_a_video_is_watched_while_it_is_made(place: Workplace) -> None:
    async def test(stub: Any) -> None:
        made = await stub.Create(ask())
        watch = stub.Watch(videos_pb2.WatchRequest(id=made.id, media=True))
        assert [(await watch.read()).event.kind for _ in range(2)] == ["queued", "position"]
        held, name = lease(place)
        with place.results.growing(name) as path, path.open("wb") as file:
            file.write(b"first")
            file.flush()
            first = await media_of(watch)
            assert (first.media.offset, first.media.data) == (0, b"first")
            assert (await stub.Get(videos_pb2.GetRequest(id=made.id))).status == "in_progress"
            file.write(b"second")
        place.jobs.finish(held, result=name, actual_s=1.0, data={"seed": 2**60 + 1})
        rest = await rest_of(watch)
        assert b"".join(each.media.data for each in rest) == b"second"
        (ended,) = [each.event for each in rest if each.event.kind == "completed"]
        assert (ended.video.status, ended.video.progress) == ("completed", 100)
        assert ended.data["seed"] == str(2**60 + 1), "a Struct cannot hold it as a number"
        again = stub.Watch(videos_pb2.WatchRequest(id=made.id, after=ended.number - 1, media=True))
        late = [response async for response in again]
        assert [each.event.number for each in late if each.HasField("event")] == [ended.number]
        assert b"".join(each.media.data for each in late) == b"firstsecond"

    run(place, test)


async def media_of(watch: Any) -> videos_pb2.WatchResponse:
    """The next response with bytes."""
    while True:
        response: videos_pb2.WatchResponse = await watch.read()
        if response.HasField("media"):
            return response


async def rest_of(watch: Any) -> list[videos_pb2.WatchResponse]:
    """Everything up to the end."""
    found = []
    while (response := await watch.read()) is not grpc.aio.EOF:
        found.append(response)
    return found


def test_a_reader_that_reads_nothing_costs_nothing_and_is_let_go(place: Workplace) -> None:
    size = 256 << 20

    async def test() -> None:
        async with edge_over(place, parts={"bounds": Bounds(stall_s=2.0)}) as (edge, channel):
            stub = videos_pb2_grpc.VideosStub(channel)
            made = await stub.Create(ask())
            _, name = lease(place)
            with place.results.growing(name) as path:
                with path.open("wb") as file:
                    file.truncate(size)
                watch = stub.Watch(videos_pb2.WatchRequest(id=made.id, media=True))
                await watch.wait_for_connection()
                await asyncio.sleep(1.0)
                assert edge.num_open == 1
                assert 0 < position_in(path) < 32 << 20
                async with asyncio.timeout(20.0):
                    while edge.num_open:
                        await asyncio.sleep(0.05)
                watch.cancel()

    asyncio.run(test())


def position_in(path: Path) -> int:
    """How far this process has read an open file."""
    places = []
    for entry in os.scandir("/proc/self/fd"):
        if os.path.exists(entry.path) and os.path.realpath(entry.path) == str(path):
            places.append(int(Path(f"/proc/self/fdinfo/{entry.name}").read_text().split()[1]))
    return max(places)


def test_a_taken_port_is_told_before_anything_is_loaded() -> None:
    async def test() -> None:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        with pytest.raises(ConfigError, match=f"{port}.*--grpc-port"):
            check_port("127.0.0.1", port)
        await server.stop(0)

    asyncio.run(test())


def test_reflection_and_health(place: Workplace) -> None:
    async def test() -> None:
        async with edge_over(place) as (edge, channel):
            asked = reflection_pb2.ServerReflectionRequest(list_services="")
            call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([asked]))
            names = [each.name for each in (await call.read()).list_services_response.service]
            call.cancel()
            assert {NAME, "grpc.health.v1.Health"} < set(names)
            health = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest(service=NAME)
            assert (await health.Check(request)).status == health_pb2.HealthCheckResponse.SERVING
            watch = health.Watch(request)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            stub = videos_pb2_grpc.VideosStub(channel)
            made = await stub.Create(ask())
            open_ = stub.Watch(videos_pb2.WatchRequest(id=made.id))
            await open_.read()
            edge.drain()
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            place.jobs.cancel(made.id)
            kinds = [response.event.kind for response in await rest_of(open_)]
            assert kinds[-1] == "cancelled", "an open call is finished"
            async with asyncio.timeout(3.0):
                await edge.stop()

    asyncio.run(test())


def test_keys_and_tenants(place: Workplace) -> None:
    accounts = AccountStore(":memory:")
    _, mine = accounts.keys.create("mine", tenant="a")
    _, other = accounts.keys.create("other", tenant="b")
    _, reads = accounts.keys.create("reads", tenant="a", scopes=("videos:read",))
    _, seldom = accounts.keys.create("seldom", tenant="a", limits=KeyLimits(requests_per_minute=1))
    limits = Limits(accounts)

    def key(secret: str) -> dict[str, Any]:
        return {"metadata": (("authorization", f"Bearer {secret}"),)}

    async def test(stub: Any) -> None:
        for metadata in ({}, key("rk_wrong")):
            code, error = await failure(stub.Create(ask(), **metadata))
            assert (code, error["code"]) == (grpc.StatusCode.UNAUTHENTICATED, "unauthenticated")
        code, error = await failure(stub.Create(ask(), **key(reads)))
        assert (code, error["code"]) == (grpc.StatusCode.PERMISSION_DENIED, "forbidden")
        made = await stub.Create(ask(), **key(mine))
        assert place.jobs.get(made.id).options.tenant == "a"
        request = videos_pb2.GetRequest(id=made.id)
        assert (await stub.Get(request, **key(reads))).id == made.id
        watch = stub.Watch(videos_pb2.WatchRequest(id=made.id, media=True), **key(other))
        for call in (
            stub.Get(request, **key(other)),
            stub.Cancel(videos_pb2.CancelRequest(id=made.id), **key(other)),
            stub.Delete(videos_pb2.DeleteRequest(id=made.id), **key(other)),
            watch.read(),
        ):
            code, error = await failure(call)
            assert (code, error["code"]) == (grpc.StatusCode.NOT_FOUND, "not_found")
        assert not (await stub.List(videos_pb2.ListRequest(), **key(other))).videos
        await stub.Get(request, **key(seldom))
        code, error = await failure(stub.Get(request, **key(seldom)))
        assert (code, error["code"]) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "rate_limited")
        assert (error["limit"], error["used"]) == (1, 1)

    run(place, test, parts={"authenticator": Authenticator(accounts), "limits": limits})
    limits.close()
    accounts.close()


def test_a_draining_gateway_takes_nothing_new(place: Workplace) -> None:
    async def test() -> None:
        async with edge_over(place) as (edge, channel):
            edge.service.gateway.is_draining = True
            code, error = await failure(videos_pb2_grpc.VideosStub(channel).Create(ask()))
            assert (code, error["code"]) == (grpc.StatusCode.UNAVAILABLE, "draining")

    asyncio.run(test())


def test_bytes_are_those_of_http(tmp_path: Path) -> None:
    async def media(address: str) -> tuple[str, list[str], bytes]:
        async with grpc.aio.insecure_channel(address) as channel:
            stub = videos_pb2_grpc.VideosStub(channel)
            made = await stub.Create(ask(seed=7))
            kinds, data = [], b""
            async for response in stub.Watch(videos_pb2.WatchRequest(id=made.id, media=True)):
                kinds += [response.event.kind] if response.HasField("event") else []
                data += response.media.data
            return made.id, kinds, data

    with serving(tmp_path, "--no-auth") as running:
        job_id, kinds, data = asyncio.run(media(running.grpc))
        assert {"queued", "started", "progress", "frames"} < set(kinds)
        assert kinds[-1] == "completed"
        with urllib.request.urlopen(f"{running.url}/v1/videos/{job_id}/content") as response:
            assert response.read() == data


def test_the_modules_are_what_the_proto_file_gives(tmp_path: Path) -> None:
    folder = "rushes/server/proto/rushes/v1"
    flags = [f"--{kind}={tmp_path}" for kind in ("python_out", "pyi_out", "grpc_python_out")]
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-Isrc", *flags, f"src/{folder}/videos.proto"],
        cwd=ROOT,
        check=True,
    )
    made = sorted((tmp_path / folder).iterdir())
    assert [path.name for path in made] == ["videos_pb2.py", "videos_pb2.pyi", "videos_pb2_grpc.py"]
    for path in made:
        assert path.read_text() == (ROOT / "src" / folder / path.name).read_text(), "run make proto"
