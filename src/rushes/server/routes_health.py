"""`/health` and `/ready`: for whoever starts, stops and balances servers."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse

import rushes
from rushes.errors import RushesError
from rushes.server.service import Service, service_of

router = APIRouter(tags=["health"])


@router.get("/health", operation_id="health")
async def health(request: Request) -> JSONResponse:
    """200 as long as the process answers."""
    service = service_of(request)
    uptime_s = round(monotonic() - service.started_at, 1)
    return JSONResponse({"status": "ok", "version": rushes.__version__, "uptime_s": uptime_s})


@router.get("/ready", operation_id="ready", responses={503: {"description": "not yet, or not any more"}})
async def ready(request: Request) -> JSONResponse:
    """200 when a job would be taken and begun; else 503 and what is missing."""
    state = await asyncio.to_thread(readiness, service_of(request))
    return JSONResponse(state, status_code=200 if state["is_ready"] else 503)


def readiness(service: Service) -> dict[str, Any]:
    """Whether jobs are taken and begun, the workers that are there, and what is missing."""
    gateway, missing = service.gateway, []
    workers: list[dict[str, Any]] = []
    try:
        gateway.place.jobs.last_place()
        workers = [{"owner": word.owner, "model": word.pipeline} for word in gateway.serving()]
    except RushesError as error:
        missing.append(f"the store: {type(error).__name__}")
    if not workers:
        missing.append("a worker")
    missing += [f"the thread of {name}" for name in _dead(service)]
    if gateway.is_draining:
        missing.append("the server is stopping")
    return {"is_ready": not missing, "missing": missing, "workers": workers}


def _dead(service: Service) -> list[str]:
    """Threads that should run and do not: only a restart helps."""
    runner = None if service.batching is None else service.batching.runner
    threads = {"feed": service.gateway.feed, "ends": service.ends, "batches": runner}
    return [name for name, thread in threads.items() if thread is not None and thread.has_died]
