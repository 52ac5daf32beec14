"""`/v1/videos`: OpenAI's calls, and events, streams and previews beyond them."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Path, Query, Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse

from rushes.engine.artefacts import Variant
from rushes.engine.trace_report import read_trace
from rushes.errors import InvalidRequest
from rushes.server import openapi
from rushes.server.body import read_body
from rushes.server.gateway import MAX_PAGE, Gateway, not_finished
from rushes.server.logs import name_job
from rushes.server.media import (
    Follower,
    content_headers,
    file_response,
    not_modified,
)
from rushes.server.problems import ProblemError, not_found, problem_of
from rushes.server.ranges import is_known
from rushes.server.reuse import maker_of
from rushes.server.service import caller_of, service_of
from rushes.server.sse import HEADERS, MEDIA_TYPE, block_of, blocks
from rushes.server.videos import page_of
from rushes.stores.base import JobRecord
from rushes.types import JobEvent

MAX_EVENT = 2**53

router = APIRouter(prefix="/v1/videos", tags=["videos"], responses=openapi.ERRORS)

JobId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$", description="id of a video")]


@router.post("", openapi_extra=openapi.CREATE, responses=openapi.VIDEO, operation_id="create_video")
async def create(
    request: Request,
    idempotency_key: Annotated[str | None, Header(alias="Idempotency-Key")] = None,
) -> JSONResponse:
    """Queue a video. The same `Idempotency-Key` and body again is the same job."""
    caller = await caller_of(request, "videos:write")
    body = await read_body(request)
    gateway = service_of(request).gateway
    traceparent = getattr(request.state, "traceparent", None)
    try:
        made = await asyncio.to_thread(
            gateway.make, body, caller, idempotency_key=idempotency_key, traceparent=traceparent
        )
    except InvalidRequest as error:
        raise ProblemError(problem_of(error, body)) from error
    name_job(made.id)
    return JSONResponse(await gateway.told(made))


@router.get("", responses=openapi.VIDEO_LIST, operation_id="list_videos")
async def list_videos(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 20,
    after: Annotated[str | None, Query(max_length=64, description="id of the last one seen")] = None,
    order: Literal["asc", "desc"] = "desc",
) -> JSONResponse:
    """This tenant's videos, newest first unless `order` is asc."""
    caller = await caller_of(request, "videos:read")
    gateway = service_of(request).gateway
    page = await asyncio.to_thread(
        gateway.list, caller.tenant, limit=limit, after=after, oldest_first=order == "asc"
    )
    return JSONResponse(page_of(page.videos, has_more=page.has_more))


@router.get("/{video_id}", responses=openapi.VIDEO, operation_id="get_video")
async def get(request: Request, video_id: JobId) -> JSONResponse:
    """One video as it stands."""
    gateway, record = await _record(request, video_id)
    return JSONResponse(await gateway.told(record))


@router.delete("/{video_id}", responses=openapi.DELETED, operation_id="delete_video")
async def delete(request: Request, video_id: JobId) -> JSONResponse:
    """Take a video away with everything made of it; a running job is cancelled first."""
    caller = await caller_of(request, "videos:write")
    await service_of(request).gateway.delete(caller.tenant, video_id)
    return JSONResponse({"id": video_id, "object": "video.deleted", "deleted": True})


@router.post("/{video_id}/cancel", responses=openapi.VIDEO, operation_id="cancel_video")
async def cancel(request: Request, video_id: JobId) -> JSONResponse:
    """End a job at its next step."""
    caller = await caller_of(request, "videos:write")
    gateway = service_of(request).gateway
    record = await asyncio.to_thread(gateway.cancel, caller.tenant, video_id)
    return JSONResponse(await gateway.told(record))


@router.api_route(
    "/{video_id}/content",
    methods=["GET"],
    response_class=Response,
    responses=openapi.CONTENT,
    operation_id="get_video_content",
)
@router.api_route("/{video_id}/content", methods=["HEAD"], response_class=Response, include_in_schema=False)
async def content(
    request: Request,
    video_id: JobId,
    variant: Variant = "video",
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """The finished file, or a picture made of it."""
    gateway, record = await _record(request, video_id)
    return await _sent(gateway, record, variant, if_none_match)


async def _sent(gateway: Gateway, record: JobRecord, variant: Variant, if_none_match: str | None) -> Response:
    _check_finished(record)
    found = await asyncio.to_thread(gateway.place.artefacts.find, record, variant)
    if found is None:
        raise ProblemError(not_found(f"{variant} of video {record.id}"))
    if if_none_match is not None and is_known(found.etag, if_none_match):
        return not_modified(content_headers(found.etag))
    if found.url is not None:
        return RedirectResponse(found.url, status_code=302, headers={"Cache-Control": "private, no-store"})
    assert found.path is not None, "an artefact lies in a folder or behind a URL"
    return file_response(found.path, found.media_type, found.etag, found.name)


@router.get(
    "/{video_id}/events",
    response_class=Response,
    responses=openapi.EVENTS,
    operation_id="watch_video",
)
async def events(
    request: Request,
    video_id: JobId,
    after: Annotated[int | None, Query(ge=0, le=MAX_EVENT)] = None,
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID")] = None,
) -> Response:
    """What happens to a job, as it happens, up to its end; goes on after `Last-Event-ID`."""
    gateway, record = await _record(request, video_id)
    if after is None:
        is_number = last_event_id is not None and last_event_id.isdecimal() and len(last_event_id) < 16
        after = int(last_event_id) if is_number and last_event_id is not None else 0
    told = gateway.watch(record.options.tenant, record.id, after=after)
    return StreamingResponse(
        blocks(told, lambda event: _block(gateway, event)), media_type=MEDIA_TYPE, headers=HEADERS
    )


@router.get(
    "/{video_id}/stream", response_class=Response, responses=openapi.STREAM, operation_id="stream_video"
)
async def stream(request: Request, video_id: JobId) -> Response:
    """The video while it is made: fragments as soon as their frames are decoded, from the first on."""
    gateway, record = await _record(request, video_id)
    if record.status == "completed":
        return await _sent(gateway, record, "video", request.headers.get("if-none-match"))
    if record.status in ("failed", "cancelled"):
        _check_finished(record)
    return StreamingResponse(Follower(gateway, video_id).chunks(), media_type="video/mp4", headers=HEADERS)


@router.get(
    "/{video_id}/preview",
    response_class=Response,
    responses=openapi.PREVIEW,
    operation_id="preview_video",
)
async def preview(
    request: Request, video_id: JobId, step: Annotated[int | None, Query(ge=0, le=1000)] = None
) -> Response:
    """The clip as its latest step predicts it; `step` only keeps caches apart."""
    gateway, record = await _record(request, video_id)
    data = await asyncio.to_thread(gateway.place.preview, maker_of(record))
    if data is None:
        raise ProblemError(not_found(f"preview of video {video_id}"))
    return Response(data, media_type="image/webp", headers={"Cache-Control": "private, no-store"})


@router.get("/{video_id}/trace", responses=openapi.TRACE, operation_id="trace_video")
async def trace(request: Request, video_id: JobId) -> JSONResponse:
    """Where a job's time went: phases, a verdict, and every span."""
    gateway, record = await _record(request, video_id)
    found = await asyncio.to_thread(read_trace, gateway.place, record.id)
    return JSONResponse(found.to_json())


async def _record(request: Request, job_id: str) -> tuple[Gateway, JobRecord]:
    caller = await caller_of(request, "videos:read")
    name_job(job_id)
    gateway = service_of(request).gateway
    return gateway, gateway.get(caller.tenant, job_id)


def _check_finished(record: JobRecord) -> None:
    """Raises `ProblemError` for a job without a video."""
    if record.status != "completed":
        raise ProblemError(not_finished(record))


def _block(gateway: Gateway, event: JobEvent) -> bytes:
    return block_of(event.kind, gateway.event_data(event), event.number or None)
