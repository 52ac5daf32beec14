"""The calls of `rushes.v1.Videos`: gRPC's edge of the gateway."""

from __future__ import annotations

import asyncio
import logging
import re
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
from rushes.server.media import Follower
from rushes.server.problems import ProblemError, problem_of
from rushes.server.proto.rushes.v1 import videos_pb2
from rushes.server.service import Service, authorized, new_request_id
from rushes.server.wishes import wish_of
from rushes.stores.api_keys import Scope
from rushes.stores.base import JobRecord
from rushes.types import FINAL

log = logging.getLogger(__name__)

Call = Callable[["Videos", Any, Caller, Any], Awaitable[Any]]


class Stalled(Exception):
    """A reader that reads nothing."""


def answers(scope: Scope) -> Callable[[Call], Callable[[Videos, Any, Any], Awaitable[Any]]]:
    """A call that needs this scope, whose errors become a status with trailing metadata."""

    def with_caller(call: Call) -> Callable[[Videos, Any, Any], Awaitable[Any]]:
        async def handle(self: Videos, request: Any, context: Any) -> Any:
            self.num_open += 1
            try:
                caller = await authorized(self.service, _metadata(context, "authorization"), scope)
                return await call(self, request, caller, context)
            except Exception as error:
                first = _first(error)
                if isinstance(first, Stalled):
                    # A status would wait behind the message that nobody takes; this resets the stream.
                    log.info("gRPC %s: %s", call.__name__, first)
                    raise asyncio.CancelledError from error
                await _abort(context, first, call.__name__)
            finally:
                self.num_open -= 1

        return handle

    return with_caller


class Videos:
    """A servicer.

    Attributes:
        num_open: calls that have begun and not ended.
    """

    def __init__(self, service: Service, *, stall_s: float) -> None:
        self.service, self._stall_s = service, stall_s
        self.num_open = 0

    @answers("videos:write")
    async def Create(self, request: videos_pb2.CreateRequest, caller: Caller, context: Any) -> Any:
        """Queue a video."""
        gateway, body = self.service.gateway, body_of(request)
        try:
            asked, options = gateway.ask(
                body,
                tenant=caller.tenant,
                idempotency_key=request.idempotency_key if request.HasField("idempotency_key") else None,
                traceparent=_traceparent(context),
            )
            record = await asyncio.to_thread(gateway.create, asked, options, caller, wish_of(body))
        except InvalidRequest as error:
            raise ProblemError(problem_of(error, body)) from error
        return self._video(record)

    @answers("videos:read")
    async def Get(self, request: videos_pb2.GetRequest, caller: Caller, context: Any) -> Any:
        """One video as it stands."""
        return self._video(self.service.gateway.get(caller.tenant, request.id))

    @answers("videos:read")
    async def List(self, request: videos_pb2.ListRequest, caller: Caller, context: Any) -> Any:
        """A page of the tenant's videos."""
        limit = request.limit if request.HasField("limit") else 20
        if not 1 <= limit <= MAX_PAGE:
            raise InvalidRequest("limit", f"must be a whole number from 1 to {MAX_PAGE}, got {limit}")
        after = request.after if request.HasField("after") else None
        page = self.service.gateway.list(
            caller.tenant, limit=limit, after=after, oldest_first=request.oldest_first
        )
        videos = [self._video(record) for record in page.records]
        return videos_pb2.ListResponse(videos=videos, has_more=page.has_more)

    @answers("videos:write")
    async def Cancel(self, request: videos_pb2.CancelRequest, caller: Caller, context: Any) -> Any:
        """End a job at its next step."""
        return self._video(await asyncio.to_thread(self.service.gateway.cancel, caller.tenant, request.id))

    @answers("videos:write")
    async def Delete(self, request: videos_pb2.DeleteRequest, caller: Caller, context: Any) -> Any:
        """Take a video away."""
        await self.service.gateway.delete(caller.tenant, request.id)
        return videos_pb2.DeleteResponse(id=request.id)

    @answers("videos:read")
    async def Watch(self, request: videos_pb2.WatchRequest, caller: Caller, context: Any) -> None:
        """Events, and the video's bytes as they are made. What a reader leaves unread is not read from the
        store either; one that reads nothing for `stall_s` is let go."""
        record = self.service.gateway.get(caller.tenant, request.id)
        if request.after < 0:
            raise InvalidRequest("after", f"must be a whole number from 0, got {request.after}")
        turn = asyncio.Lock()

        async def send(news: AsyncGenerator[videos_pb2.WatchResponse]) -> None:
            async with aclosing(news):
                async for response in news:
                    async with turn:
                        await self._write(context, response)

        async with asyncio.TaskGroup() as group:
            group.create_task(send(self._events(record, request.after)))
            if request.media:
                group.create_task(send(self._media(record)))

    async def _write(self, context: Any, response: videos_pb2.WatchResponse) -> None:
        try:
            async with asyncio.timeout(self._stall_s):
                await context.write(response)
        except TimeoutError:
            raise Stalled(f"nothing was read for {self._stall_s:g} s") from None

    def _video(self, record: JobRecord) -> videos_pb2.Video:
        return video_message(self.service.gateway.video(record))

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


def _metadata(context: Any, name: str) -> str | None:
    for key, value in context.invocation_metadata() or ():
        if key == name and isinstance(value, str):
            return value
    return None


def _traceparent(context: Any) -> str | None:
    """The caller's trace context, if it is one that W3C's specification allows."""
    given = _metadata(context, "traceparent") or ""
    return given if re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", given) else None


def _first(error: BaseException) -> Exception:
    """Of a group, however deep."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, Exception)
    return error


async def _abort(context: Any, error: Exception, name: str) -> None:
    if not isinstance(error, (RushesError, ProblemError)):
        log.error("gRPC %s failed", name, exc_info=error)
    problem = problem_of(error)
    trailers = trailers_of(problem, new_request_id())
    await context.abort(getattr(grpc.StatusCode, code_of(problem)), problem.message[:MAX_MESSAGE], trailers)
