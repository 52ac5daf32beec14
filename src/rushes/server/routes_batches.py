"""`/v1/batches`: many videos from a template."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Request
from starlette.responses import JSONResponse

from rushes.errors import InvalidRequest
from rushes.server import openapi
from rushes.server.batch_asks import read_batch
from rushes.server.batch_runner import Batching
from rushes.server.body import read_body
from rushes.server.gateway import MAX_PAGE, draining
from rushes.server.problems import ProblemError, not_found
from rushes.server.service import caller_of, service_of
from rushes.server.videos import page_of

MOST_ROWS = 1000
"""Of one page."""

router = APIRouter(prefix="/v1/batches", tags=["batches"], responses=openapi.ERRORS)

BatchId = Annotated[str, Path(pattern=r"^batch_[0-9a-f]{32}$", description="id of a batch")]


@router.post("", openapi_extra=openapi.CREATE_BATCH, responses=openapi.BATCH, operation_id="create_batch")
async def create(
    request: Request,
    idempotency_key: Annotated[str | None, Header(alias="Idempotency-Key")] = None,
) -> JSONResponse:
    """Check every row; then queue them, or with `estimate` tell what they would take."""
    caller = await caller_of(request, "videos:write")
    body = await read_body(request)
    batching = _batching(request)
    is_estimate = body.get("estimate")
    if not isinstance(is_estimate, bool | None):
        raise InvalidRequest("estimate", "must be true or false")
    ask = await asyncio.to_thread(read_batch, body)
    if is_estimate:
        return JSONResponse(await asyncio.to_thread(batching.desk.estimate, ask, caller))
    if service_of(request).gateway.is_draining:
        raise ProblemError(draining())
    record = await asyncio.to_thread(batching.desk.create, ask, caller, idempotency_key)
    batching.runner.wake()
    return JSONResponse(await asyncio.to_thread(batching.desk.batch, record))


@router.get("", responses=openapi.BATCH_LIST, operation_id="list_batches")
async def list_batches(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 20,
    after: Annotated[str | None, Query(max_length=64, description="id of the last one seen")] = None,
) -> JSONResponse:
    """This tenant's batches, newest first."""
    caller = await caller_of(request, "videos:read")
    desk = _batching(request).desk
    found = await asyncio.to_thread(desk.batches.list, tenant=caller.tenant, limit=limit + 1, after=after)
    data = await asyncio.to_thread(lambda: [desk.batch(record) for record in found[:limit]])
    return JSONResponse(page_of(data, has_more=len(found) > limit))


@router.get("/{batch_id}", responses=openapi.BATCH, operation_id="get_batch")
async def get(
    request: Request,
    batch_id: BatchId,
    after: Annotated[int, Query(ge=0, le=2**31, description="number of the last row seen")] = 0,
    limit: Annotated[int, Query(ge=1, le=MOST_ROWS)] = 100,
) -> JSONResponse:
    """How a batch stands, and a page of its rows with their videos."""
    caller = await caller_of(request, "videos:read")
    desk = _batching(request).desk
    record = await asyncio.to_thread(desk.get, batch_id, caller)
    batch = await asyncio.to_thread(desk.batch, record)
    page = await asyncio.to_thread(desk.page, record, after=after, limit=limit)
    return JSONResponse({**batch, **page})


@router.post("/{batch_id}/cancel", responses=openapi.BATCH, operation_id="cancel_batch")
async def cancel(request: Request, batch_id: BatchId) -> JSONResponse:
    """Queue no more of it, and cancel what has not ended."""
    caller = await caller_of(request, "videos:write")
    desk = _batching(request).desk
    record = await asyncio.to_thread(desk.cancel, batch_id, caller)
    return JSONResponse(await asyncio.to_thread(desk.batch, record))


def _batching(request: Request) -> Batching:
    batching = service_of(request).batching
    if batching is None:
        raise ProblemError(not_found("such page"))
    return batching
