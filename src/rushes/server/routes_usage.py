"""`/v1/usage`: what keys used."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse

from rushes.server import openapi
from rushes.server.service import caller_of, service_of
from rushes.server.usage import DEFAULT_DAYS, MOST_DAYS, usage_for, usage_json

router = APIRouter(prefix="/v1/usage", tags=["usage"], responses=openapi.ERRORS)

_ROW: dict[str, Any] = {
    "type": "object",
    "properties": {
        "object": {"const": "usage"},
        "key_id": {"type": "string"},
        "key": {"type": ["string", "null"], "description": "the key's name"},
        "tenant": {"type": "string"},
        "day": {"type": "string", "format": "date", "description": "in UTC"},
        "num_jobs": {"type": "integer"},
        "predicted_s": {"type": "number", "description": "GPU-seconds of all of the jobs"},
        "actual_s": {"type": "number", "description": "GPU-seconds of those that have ended"},
    },
}
_LIST: dict[str, Any] = {
    "type": "object",
    "required": ["object", "data"],
    "properties": {"object": {"const": "list"}, "data": {"type": "array", "items": _ROW}},
}
_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {"description": "latest day first", "content": {"application/json": {"schema": _LIST}}}
}


@router.get("", operation_id="get_usage", responses=_ANSWER)
async def get_usage(
    request: Request, days: Annotated[int, Query(ge=1, le=MOST_DAYS)] = DEFAULT_DAYS
) -> JSONResponse:
    """Predicted and actual GPU-seconds by key and day: of the caller's tenant, of all for an admin."""
    caller = await caller_of(request, "usage:read")
    accounts = service_of(request).accounts
    rows = () if accounts is None else await asyncio.to_thread(usage_for, accounts, caller, days=days)
    return JSONResponse({"object": "list", "data": [usage_json(row) for row in rows]})
