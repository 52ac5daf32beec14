"""A small application behind the gateway's middlewares, under a real uvicorn."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI, Request
from starlette.responses import PlainTextResponse, StreamingResponse

from rushes.server.instrument import instrument
from rushes.server.logs import conceal, name_job
from rushes.server.metrics import GatewayMetrics
from rushes.server.tracing import traceparent

log = logging.getLogger("rushes.tests")


def make_app() -> FastAPI:
    app = FastAPI()

    @app.get("/v1/videos/{video_id}")
    async def get(request: Request, video_id: str) -> dict[str, str | None]:
        request.state.request_id = "req_1"
        name_job(video_id)
        log.info("looked up")
        return {"here": traceparent(), "state": request.state.traceparent}

    @app.get("/thread/{video_id}")
    def in_a_thread(video_id: str) -> dict[str, str | None]:
        return {"here": traceparent(), "state": None}

    @app.post("/v1/videos")
    async def create(request: Request) -> dict[str, str]:
        prompt = (await request.json())["prompt"]
        conceal(prompt)
        raise ValueError(f"cannot make {prompt!r} with {request.headers['authorization']}")

    @app.get("/v1/videos/{video_id}/events")
    async def events(video_id: str) -> StreamingResponse:
        async def lines() -> AsyncIterator[bytes]:
            for number in range(3):
                yield f"data: {number}\n\n".encode()
                await asyncio.sleep(0.1)

        return StreamingResponse(lines(), media_type="text/event-stream")

    @app.get("/refused")
    async def refused(request: Request) -> PlainTextResponse:
        request.state.error_code = "quota_exceeded"
        return PlainTextResponse("later", status_code=429)

    @app.get("/health")
    async def health() -> PlainTextResponse:
        return PlainTextResponse("ok")

    return app


@contextmanager
def served(metrics: GatewayMetrics, tracer) -> Iterator[str]:
    app = make_app()
    instrument(app, metrics, tracer)
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, access_log=False, lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + 20
        while not server.started:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()
