"""`/v1/videos/{id}/remix` and `/history`: edits of a clip, and where it came from."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Header, Request
from starlette.responses import JSONResponse

from rushes.errors import InvalidRequest
from rushes.server import openapi
from rushes.server.body import read_body
from rushes.server.edits import edit_of, history_of
from rushes.server.logs import name_job
from rushes.server.problems import ProblemError, problem_of
from rushes.server.routes_videos import JobId
from rushes.server.service import caller_of, service_of

router = APIRouter(prefix="/v1/videos", tags=["videos"], responses=openapi.ERRORS)


@router.post(
    "/{video_id}/remix", openapi_extra=openapi.REMIX, responses=openapi.VIDEO, operation_id="remix_video"
)
async def remix(
    request: Request,
    video_id: JobId,
    idempotency_key: Annotated[str | None, Header(alias="Idempotency-Key")] = None,
) -> JSONResponse:
    """Queue an edit of a completed video: it goes on from the video's latents with a new prompt."""
    caller = await caller_of(request, "videos:write")
    body = await read_body(request)
    gateway = service_of(request).gateway
    try:
        ask = edit_of(
            body,
            tenant=caller.tenant,
            idempotency_key=idempotency_key,
            traceparent=getattr(request.state, "traceparent", None),
        )
        record = await asyncio.to_thread(gateway.remix, caller, video_id, ask)
        name_job(record.id)
    except InvalidRequest as error:
        raise ProblemError(problem_of(error, body)) from error
    return JSONResponse(await gateway.told(record))


@router.get("/{video_id}/history", responses=openapi.HISTORY, operation_id="video_history")
async def history(request: Request, video_id: JobId) -> JSONResponse:
    """A video and those that it is an edit of, itself first: to undo is to go on with the second."""
    caller = await caller_of(request, "videos:read")
    gateway = service_of(request).gateway
    record = gateway.get(caller.tenant, video_id)
    links = await asyncio.to_thread(history_of, gateway.place.jobs, record)
    return JSONResponse({"object": "video.history", "data": links})
