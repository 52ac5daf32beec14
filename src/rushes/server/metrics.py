"""A gateway's Prometheus metrics: its requests, the queue in the store, and what its workers tell.

Labels are of closed sets: routes as the application declares them, statuses, codes, models, lanes. No job, no
tenant, no path as it came.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rushes import __version__
from rushes.errors import RushesError
from rushes.server.routes import method_of, route_of
from rushes.stores.base import Depth, JobStore

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
REFUSALS = (
    "queue_full",
    "rate_limited",
    "too_many_jobs",
    "too_many_batches",
    "quota_exceeded",
    "draining",
)
"""Codes of what is refused for want of room, rather than for what was asked."""


class GatewayMetrics:
    """What a gateway counts, in a registry of its own.

    Args:
        jobs: whose queue is told at every scrape; None for none.
        more: further collectors, such as `rushes.server.worker_scrape.WorkerScrape`.

    Attributes:
        registry: served by `answer`.
    """

    def __init__(self, jobs: JobStore | None = None, *, more: Iterable[Collector] = ()) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        if jobs is not None:
            self.registry.register(QueueDepth(jobs))
        for collector in more:
            self.registry.register(collector)
        info = Gauge(
            "rushes_build_info", "1; what runs.", ("component", "version", "python"), registry=self.registry
        )
        info.labels("gateway", __version__, platform.python_version()).set(1)
        self._requests = Counter(
            "rushes_http_requests",
            "Requests that were answered.",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "rushes_http_response_start_seconds",
            "From a request's head to that of its answer; a stream may go on for long after.",
            ("method", "route"),
            buckets=SECONDS,
            registry=self.registry,
        )
        self._open = Gauge(
            "rushes_http_open_requests",
            "Requests whose answer goes on: event streams and growing videos above all.",
            ("route",),
            registry=self.registry,
        )
        self._bytes = Counter(
            "rushes_http_response_bytes", "Bytes of bodies sent.", ("route",), registry=self.registry
        )
        self._refused = Counter(
            "rushes_refused",
            "Requests refused for want of room, by the error's code.",
            ("code",),
            registry=self.registry,
        )
        for code in REFUSALS:
            self._refused.labels(code)

    def refused(self, code: str | None) -> None:
        """A request was answered with this error code; those that refuse for want of room are counted."""
        if code in REFUSALS:
            self._refused.labels(code).inc()

    def started(self, scope: Scope, status: int, seconds: float) -> str:
        """An answer began; returns its route."""
        route, method = route_of(scope), method_of(scope)
        state = scope.get("state", {})
        self.refused(state.get("error_code"))
        trace_id = state.get("trace_id")
        exemplar = {"trace_id": trace_id} if trace_id else None
        self._requests.labels(method, route, str(status)).inc(exemplar=exemplar)
        self._seconds.labels(method, route).observe(seconds, exemplar)
        self._open.labels(route).inc()
        return route

    def ended(self, route: str, num_bytes: int) -> None:
        """It is over."""
        self._open.labels(route).dec()
        self._bytes.labels(route).inc(num_bytes)

    def answer(self, accept: str) -> tuple[bytes, str]:
        """Everything, in the format that a scraper accepts (Prometheus' or OpenMetrics, which has exemplars),
        and its media type. Reads the store and asks the workers: not to be called on the event loop."""
        encode, media_type = choose_encoder(accept)
        return encode(self.registry), media_type


class MetricsMiddleware:
    """ASGI middleware: counts each HTTP request by its route, method and status, and refusals by the
    `error_code` that the application leaves in the request's state."""

    def __init__(self, app: ASGIApp, metrics: GatewayMetrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin = perf_counter()
        route: str | None = None
        num_bytes = 0

        async def counting(message: Message) -> None:
            nonlocal route, num_bytes
            if message["type"] == "http.response.start" and route is None:
                route = self._metrics.started(scope, message["status"], perf_counter() - begin)
            elif message["type"] == "http.response.body":
                num_bytes += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, counting)
        except Exception:
            if route is None:
                route = self._metrics.started(scope, 500, perf_counter() - begin)
            raise
        finally:
            if route is not None:
                self._metrics.ended(route, num_bytes)


class QueueDepth(Collector):
    """Jobs that wait and run, read from the store at every scrape; nothing while it cannot be read."""

    def __init__(self, jobs: JobStore, clock: Callable[[], float] = time.time) -> None:
        self._jobs, self._clock = jobs, clock

    def describe(self) -> Sequence[Metric]:
        """See `Collector`."""
        return self._families(())

    def collect(self) -> Iterator[Metric]:
        """See `Collector`."""
        try:
            depths = self._jobs.depths()
        except RushesError:
            return
        yield from self._families(depths)

    def _families(self, depths: Iterable[Depth]) -> Sequence[Metric]:
        jobs = GaugeMetricFamily(
            "rushes_queue_jobs", "Jobs in the store.", labels=("model", "lane", "status")
        )
        oldest = GaugeMetricFamily(
            "rushes_queue_oldest_seconds", "Age of the oldest queued job.", labels=("model", "lane")
        )
        for depth in depths:
            jobs.add_metric((depth.pipeline, depth.lane, depth.status), depth.jobs)
            if depth.status == "queued":
                age_s = max(0.0, self._clock() - depth.oldest_at)
                oldest.add_metric((depth.pipeline, depth.lane), age_s)
        return jobs, oldest
