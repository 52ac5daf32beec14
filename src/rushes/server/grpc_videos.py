"""The calls of `rushes.v1.Videos`: gRPC's edge of the gateway."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc

from rushes.errors import InvalidRequest, RushesError
from rushes.server.auth import Caller
from rushes.server.gateway import MAX_PAGE, draining
from rushes.server.grpc_messages import (
    MAX_MESSAGE,
    body_of,
    code_of,
    event_message,
    trailers_of,
    video_message,
)
from rushes.server.grpc_observed import Call, Observer
from rushes.server.logs import name_job
from rushes.server.media import Follower
from rushes.server.problems import Problem, ProblemError, problem_of
from rushes.server.proto.rushes.v1 import videos_pb2
from rushes.server.service import Service, authorized
from rushes.stores.api_keys import Scope
from rushes.stores.base import JobRecord
from rushes.types import FINAL

log = logging.getLogger(__name__)

Handler = Callable[["Videos", Any, Caller, Call], Awaitable[Any]]


class Stalled(Exception):
    """A reader that reads nothing."""


def answers(scope: Scope) -> Callable[[Handler], Callable[[Videos, Any, Any], Awaitable[Any]]]:
    """A call that needs this scope, whose errors become a status with trailing metadata."""

    def with_caller(handler: Handler) -> Callable[[Videos, Any, Any], Awaitable[Any]]:
        async def handle(self: Videos, request: Any, context: Any) -> Any:
            self.num_open += 1
            try:
                with self.observer.observing(handler.__name__, context) as call:
                    try:
                        return await _answer(self, handler, scope, request, call)
                    except Exception as error:
                        problem = _problem_of(error, call)
                        call.failed(problem)
                await _abort(context, problem, call)
            finally:
                self.num_open -= 1

        return handle

    return with_caller


async def _answer(videos: Videos, handler: Handler, scope: Scope, request: Any, call: Call) -> Any:
    caller = await authorized(videos.service, call.metadata.get("authorization"), scope)
    answer = await handler(videos, request, caller, call)
    if answer is not None:
        call.sends(answer)
    call.succeeded()
    return answer


class Videos:
    """A servicer.

    Attributes:
        num_open: calls that have begun and not ended.
    """

    def __init__(self, service: Service, *, stall_s: float) -> None:
        self.service, self._stall_s = service, stall_s
        self.observer = Observer(service)
        self.num_open = 0

    @answers("videos:write")
    async def Create(self, request: videos_pb2.CreateRequest, caller: Caller, call: Call) -> Any:
        """Queue a video."""
        gateway, body = self.service.gateway, body_of(request)
        key = request.idempotency_key if request.HasField("idempotency_key") else None
        traceparent = call.state.get("traceparent")
        try:
            record = await asyncio.to_thread(
                gateway.make, body, caller, idempotency_key=key, traceparent=traceparent
            )
        except InvalidRequest as error:
            raise ProblemError(problem_of(error, body)) from error
        name_job(record.id)
        return await self._video(record)

    @answers("videos:read")
    async def Get(self, request: videos_pb2.GetRequest, caller: Caller, call: Call) -> Any:
        """One video as it stands."""
        return await self._video(self._record(caller, request.id))

    @answers("videos:read")
    async def List(self, request: videos_pb2.ListRequest, caller: Caller, call: Call) -> Any:
        """A page of the tenant's videos."""
        limit = request.limit if request.HasField("limit") else 20
        if not 1 <= limit <= MAX_PAGE:
            raise InvalidRequest("limit", f"must be a whole number from 1 to {MAX_PAGE}, got {limit}")
        after = request.after if request.HasField("after") else None
        page = await asyncio.to_thread(
            self.service.gateway.list,
            caller.tenant,
            limit=limit,
            after=after,
            oldest_first=request.oldest_first,
        )
        return videos_pb2.ListResponse(videos=map(video_message, page.videos), has_more=page.has_more)

    @answers("videos:write")
    async def Cancel(self, request: videos_pb2.CancelRequest, caller: Caller, call: Call) -> Any:
        """End a job at its next step."""
        self._record(caller, request.id)
        record = await asyncio.to_thread(self.service.gateway.cancel, caller.tenant, request.id)
        return await self._video(record)

    @answers("videos:write")
    async def Delete(self, request: videos_pb2.DeleteRequest, caller: Caller, call: Call) -> Any:
        """Take a video away."""
        self._record(caller, request.id)
        await self.service.gateway.delete(caller.tenant, request.id)
        return videos_pb2.DeleteResponse(id=request.id)

    @answers("videos:read")
    async def Watch(self, request: videos_pb2.WatchRequest, caller: Caller, call: Call) -> None:
        """Events, and the video's bytes as they are made. What a reader leaves unread is not read from the
        store either; one that reads nothing for `stall_s` is let go."""
        record = self._record(caller, request.id)
        if request.after < 0:
            raise InvalidRequest("after", f"must be a whole number from 0, got {request.after}")
        turn = asyncio.Lock()

        async def send(news: AsyncGenerator[videos_pb2.WatchResponse]) -> None:
            async with aclosing(news):
                async for response in news:
                    async with turn:
                        await self._write(call, response)

        async with asyncio.TaskGroup() as group:
            group.create_task(send(self._events(record, request.after)))
            if request.media:
                group.create_task(send(self._media(record)))

    async def _write(self, call: Call, response: videos_pb2.WatchResponse) -> None:
        try:
            async with asyncio.timeout(self._stall_s):
                await call.write(response)
        except TimeoutError:
            raise Stalled(f"nothing was read for {self._stall_s:g} s") from None

    def _record(self, caller: Caller, job_id: str) -> JobRecord:
        """Raises `UnknownJob`, before a text of whatever kind gets into logs."""
        record = self.service.gateway.get(caller.tenant, job_id)
        name_job(record.id)
        return record

    async def _video(self, record: JobRecord) -> videos_pb2.Video:
        return video_message(await self.service.gateway.told(record))

    async def _events(self, record: JobRecord, after: int) -> AsyncGenerator[videos_pb2.WatchResponse]:
        gateway, is_ended = self.service.gateway, False
        async with aclosing(gateway.watch(record.options.tenant, record.id, after=after)) as events:
            async for event in events:
                is_ended = event.kind in FINAL
                yield videos_pb2.WatchResponse(event=event_message(event, gateway.event_data(event)))
        if not is_ended and gateway.is_draining:
            raise ProblemError(draining())

    async def _media(self, record: JobRecord) -> AsyncGenerator[videos_pb2.WatchResponse]:
        """Of a video that lies elsewhere by now, where."""
        offset = 0
        async with aclosing(Follower(self.service.gateway, record.id).chunks()) as chunks:
            async for data in chunks:
                yield videos_pb2.WatchResponse(media=videos_pb2.MediaChunk(offset=offset, data=data))
                offset += len(data)
        record = self.service.gateway.place.jobs.get(record.id)
        if offset or record.status not in FINAL:
            return
        found = await asyncio.to_thread(self.service.gateway.place.artefacts.find, record, "video")
        if found is not None and found.url is not None:
            yield videos_pb2.WatchResponse(media_url=found.url)


def _first(error: BaseException) -> Exception:
    """Of a group, however deep."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, Exception)
    return error


def _problem_of(error: Exception, call: Call) -> Problem:
    first = _first(error)
    if isinstance(first, Stalled):
        # A status would wait behind the message that nobody takes; this resets the stream.
        log.info("gRPC %s: %s", call.method, first)
        raise asyncio.CancelledError from error
    if not isinstance(first, (RushesError, ProblemError)):
        log.error("gRPC %s failed", call.method, exc_info=first)
    return problem_of(first)


async def _abort(context: Any, problem: Problem, call: Call) -> None:
    trailers = (*trailers_of(problem, call.state["request_id"]), *call.ids)
    await context.abort(getattr(grpc.StatusCode, code_of(problem)), problem.message[:MAX_MESSAGE], trailers)
