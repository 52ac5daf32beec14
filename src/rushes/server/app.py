"""The HTTP application: routes, one shape of errors, and the studio's files."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import rushes
from rushes.errors import RushesError
from rushes.server import (
    routes_batches,
    routes_edits,
    routes_health,
    routes_models,
    routes_usage,
    routes_videos,
)
from rushes.server.body import BodyGuard
from rushes.server.instrument import instrument
from rushes.server.local_only import LocalOnly
from rushes.server.problems import Problem, ProblemError, not_found, problem_of
from rushes.server.service import Service, request_id_of

log = logging.getLogger(__name__)

THREADS = 32
"""That may wait for the store or the disk at a time."""

STUDIO = Path(__file__).parent / "studio"

REQUEST_HEADERS = (
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "If-None-Match",
    "Last-Event-ID",
    "Range",
    "X-Request-Id",
    "traceparent",
)
ANSWER_HEADERS = ("Accept-Ranges", "Content-Range", "ETag", "Retry-After", "X-Request-Id")
"""What pages of other origins may send and see."""


def security_headers(media_origin: str | None) -> dict[str, str]:
    """Of the studio's files: the page may load from this host alone, and videos from where they are kept."""
    media = "" if media_origin is None else f" {media_origin}"
    return {
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "X-Frame-Options": "DENY",
        "Content-Security-Policy": (
            f"default-src 'self'; img-src 'self' blob: data:{media}; media-src 'self' blob:{media};"
            f" connect-src 'self'{media}; style-src 'self'; script-src 'self'; object-src 'none';"
            " base-uri 'none'; frame-ancestors 'none'"
        ),
        "Cache-Control": "no-cache",
    }


class Edge(Protocol):
    """Another protocol of the same gateway: `rushes.server.grpc_edge`."""

    async def start(self) -> None:
        """Listen and answer."""

    async def stop(self) -> None:
        """Returns when every call has ended."""


def create_app(
    service: Service, *, on_stop: Callable[[], None] = lambda: None, edge: Edge | None = None
) -> FastAPI:
    """The ASGI application of one gateway process; its feed and its other edge run while the application
    does."""

    app = FastAPI(
        title="Rushes",
        version=rushes.__version__,
        lifespan=_lifespan(service, on_stop, edge),
        redoc_url=None,
        docs_url=None,  # its page runs another host's script beside the stored key
        separate_input_output_schemas=False,
    )
    app.state.service = service
    for routes in (routes_videos, routes_edits, routes_batches, routes_models, routes_usage, routes_health):
        app.include_router(routes.router)
    app.add_exception_handler(RushesError, _answer)
    app.add_exception_handler(ProblemError, _answer)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(RequestValidationError, _answer_validation)
    app.add_exception_handler(Exception, _answer_bug)
    _guard(app, service)
    if STUDIO.is_dir():
        _serve_studio(app, service.media_origin)
    if service.metrics is not None and service.tracer is not None:
        instrument(app, service.metrics, service.tracer)
    return app


def _lifespan(
    service: Service, on_stop: Callable[[], None], edge: Edge | None
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.gateway.feed.start()
        # Those of asyncio are few, and each may wait for a store that is locked.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS, "gateway"))
        if edge is not None:
            await edge.start()
        if service.batching is not None:
            service.batching.runner.start()
        yield
        service.gateway.drain()
        if service.batching is not None:
            await asyncio.to_thread(service.batching.runner.stop)
        if edge is not None:
            await edge.stop()
        service.gateway.feed.stop()
        on_stop()

    return lifespan


def _guard(app: FastAPI, service: Service) -> None:
    """Middlewares, the last one outermost."""
    app.add_middleware(BodyGuard, bounds=service.bounds)
    if service.cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=service.cors,
            allow_methods=("GET", "HEAD", "POST", "DELETE"),
            allow_headers=REQUEST_HEADERS,
            expose_headers=ANSWER_HEADERS,
        )
    if service.is_local_only:
        app.add_middleware(LocalOnly, origins=service.cors)
    app.add_middleware(RequestIds)


def _serve_studio(app: FastAPI, media_origin: str | None) -> None:
    headers = security_headers(media_origin)
    page = FileResponse(STUDIO / "index.html", headers=headers)
    app.get("/", include_in_schema=False)(lambda: page)
    docs = FileResponse(STUDIO / "docs.html", headers=headers)
    app.get("/docs", include_in_schema=False)(lambda: docs)
    app.mount("/studio", StudioFiles(headers, directory=STUDIO), name="studio")


class RequestIds:
    """ASGI middleware: every request has an id, the client's own if it sends a sane one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("ascii", "replace")
        request_id = request_id_of(given)
        scope.setdefault("state", {})["request_id"] = request_id

        async def with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        return await self._app(scope, receive, with_id)


class StudioFiles(StaticFiles):
    """The studio's files, with these headers."""

    def __init__(self, headers: Mapping[str, str], *, directory: Path) -> None:
        super().__init__(directory=directory)
        self._headers = dict(headers)

    def file_response(self, *args: object, **kwargs: object) -> Response:
        """See `StaticFiles`."""
        response = super().file_response(*args, **kwargs)  # type: ignore[arg-type]
        response.headers.update(self._headers)
        return response


def _respond(request: Request, problem: Problem) -> JSONResponse:
    request.state.error_code = problem.code  # for its metrics and its line in the log
    content = problem.content(getattr(request.state, "request_id", None))
    return JSONResponse(content, status_code=problem.status, headers=problem.headers())


async def _answer(request: Request, error: Exception) -> JSONResponse:
    problem = problem_of(error)
    if problem.status >= 500:
        log.warning("%s %s: %s", request.method, request.url.path, error)
    return _respond(request, problem)


async def _answer_http(request: Request, error: Exception) -> JSONResponse:
    """Starlette's own errors: no such route, no such method."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        problem = not_found("such page")
    elif error.status_code == 405:
        problem = Problem(
            status=405, code="method_not_allowed", message=f"{request.method} is not allowed here"
        )
    else:
        problem = Problem(status=error.status_code, code="invalid_request", message=str(error.detail))
    response = _respond(request, problem)
    response.headers.update(error.headers or {})
    return response


async def _answer_validation(request: Request, error: Exception) -> JSONResponse:
    """A path, query or header that breaks its schema; an id that can be none is one that is not there."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where, field = first["loc"][0], str(first["loc"][-1])
    if where == "path":
        return _respond(request, not_found(f"such {field.removesuffix('_id')}"))
    problem = Problem(
        status=400,
        code="invalid_request",
        message=f"{field}: {first['msg']}",
        field=field,
        value=first.get("input"),
        rule=first["msg"],
    )
    return _respond(request, problem)


async def _answer_bug(request: Request, error: Exception) -> JSONResponse:
    log.exception("%s %s failed", request.method, request.url.path, exc_info=error)
    return _respond(request, problem_of(error))
