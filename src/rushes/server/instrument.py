"""Puts logs, traces and metrics around a gateway's application."""

from __future__ import annotations

import asyncio
import math
from time import monotonic

from fastapi import FastAPI, Request
from opentelemetry.trace import Tracer
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from rushes.server.access_log import AccessLogMiddleware
from rushes.server.metrics import GatewayMetrics, MetricsMiddleware
from rushes.server.tracing import TracingMiddleware

OPENMETRICS = "application/openmetrics-text"

FRESH_S = 1.0
"""For which an answer serves further scrapers: each reads the store and asks all workers."""


class Scrapes:
    """Answers of `/metrics`: made one at a time, told again for `FRESH_S`. On one event loop."""

    def __init__(self, metrics: GatewayMetrics) -> None:
        self._metrics = metrics
        self._turn = asyncio.Lock()
        self._latest: dict[str, tuple[float, bytes, str]] = {}

    async def answer(self, accept: str) -> tuple[bytes, str]:
        """Content and media type: OpenMetrics for a scraper that accepts it, else Prometheus' format."""
        accept = OPENMETRICS if OPENMETRICS in accept else ""  # two answers, whatever versions it names
        async with self._turn:
            made_at, content, media_type = self._latest.get(accept, (-math.inf, b"", ""))
            if monotonic() >= made_at + FRESH_S:
                content, media_type = await run_in_threadpool(self._metrics.answer, accept)
                self._latest[accept] = (monotonic(), content, media_type)
        return content, media_type


def instrument(app: FastAPI, metrics: GatewayMetrics, tracer: Tracer) -> None:
    """Add `/metrics`, and three pure ASGI middlewares around what the app has by now: outermost the access
    log, then the request's span, then its metrics. To be called once, before the app starts.

    They share the request's state (`scope["state"]`): `trace_id` and `traceparent` are set before the
    application runs; it may set `request_id`, `job_id` and the `error_code` of an answer that is an error.
    """

    scrapes = Scrapes(metrics)

    async def serve_metrics(request: Request) -> Response:
        """Prometheus' format, or OpenMetrics with exemplars for a scraper that accepts it."""
        content, media_type = await scrapes.answer(request.headers.get("accept", ""))
        return Response(content, headers={"Content-Type": media_type, "Cache-Control": "no-store"})

    app.add_api_route("/metrics", serve_metrics, include_in_schema=False)
    app.add_middleware(MetricsMiddleware, metrics=metrics)
    app.add_middleware(TracingMiddleware, tracer=tracer)
    app.add_middleware(AccessLogMiddleware)
