"""Spans to an OpenTelemetry collector, by OTLP over HTTP, in batches off the hot path. No torch here.

A collector that is away costs nothing but spans: those that find the queue full, or that could not be
delivered, are counted and gone. Headers, certificates and compression are taken from OpenTelemetry's own
variables (`OTEL_EXPORTER_OTLP_HEADERS`, ...) by its exporter.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from rushes import __version__
from rushes.errors import ConfigError

log = logging.getLogger(__name__)

MOST_QUEUED = 8_192
BATCH = 512
DELAY_S = 1.0
"""That a span waits for company."""

TIMEOUT_S = 5.0
"""Of one delivery, tries included."""

LAST_S = 3.0
"""That the last delivery may take when the process ends, on a busy machine."""


class Batches(SpanProcessor):
    """Sends ended spans on a thread of its own.

    Attributes:
        num_sent, num_dropped: spans so far.
    """

    def __init__(
        self, exporter: SpanExporter, *, most_queued: int = MOST_QUEUED, delay_s: float = DELAY_S
    ) -> None:
        self._exporter, self._delay_s = exporter, delay_s
        self._queue: deque[ReadableSpan] = deque()
        self._most_queued = most_queued
        self._wakes, self._stops = threading.Event(), threading.Event()
        self._is_away = False
        self.num_sent = self.num_dropped = 0
        self._thread = threading.Thread(target=self._run, name="otlp", daemon=True)
        self._thread.start()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Nothing to do."""

    def on_end(self, span: ReadableSpan) -> None:
        """Queue it; the oldest make room for nobody, since their parents are still to come."""
        if not span.context.trace_flags.sampled:
            return
        if len(self._queue) >= self._most_queued or self._stops.is_set():
            self.num_dropped += 1
            return
        self._queue.append(span)
        if len(self._queue) >= BATCH:
            self._wakes.set()

    def shutdown(self) -> None:
        """Try for a moment to send what is queued, and end. A second call does nothing."""
        if not self._stops.is_set():
            self._stops.set()
            self._wakes.set()
            self._thread.join(LAST_S)
            self._exporter.shutdown()  # which ends its waiting for another try
            self._thread.join(TIMEOUT_S)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Wait until what is queued now has been sent or dropped; whether it was in time."""
        deadline = time.monotonic() + timeout_millis / 1000
        while self._queue and time.monotonic() < deadline:
            self._wakes.set()
            time.sleep(0.005)
        return not self._queue

    def _run(self) -> None:
        while not self._stops.is_set():
            self._wakes.wait(self._delay_s)
            self._wakes.clear()
            while self._queue and self._send() and not self._stops.is_set():
                pass
        while self._queue and self._send():
            pass
        self.num_dropped += len(self._queue)
        self._queue.clear()

    def _send(self) -> bool:
        """One batch; whether it arrived."""
        batch = [self._queue[number] for number in range(min(BATCH, len(self._queue)))]
        try:
            has_arrived = self._exporter.export(batch) is SpanExportResult.SUCCESS
        except Exception as error:  # the border to the exporter: whatever it is, it costs spans
            log.debug("spans were not sent", exc_info=error)
            has_arrived = False
        if has_arrived:
            self.num_sent += len(batch)
        else:
            self.num_dropped += len(batch)
        self._tell(is_away=not has_arrived)
        for _ in batch:  # last, since `force_flush` looks at the queue
            self._queue.popleft()
        return has_arrived

    def _tell(self, *, is_away: bool) -> None:
        if is_away and not self._is_away:
            log.warning("no spans can be delivered; they are dropped until the collector is there")
        elif self._is_away and not is_away:
            log.warning("spans are delivered again; %d were dropped so far", self.num_dropped)
        self._is_away = is_away


@contextmanager
def tracer_provider(service: str, url: str | None, instance: str | None = None) -> Iterator[Tracing]:
    """A tracer provider of its own, not OpenTelemetry's global one; what is queued at the end is sent.

    Args:
        service: `service.name`: rushes-gateway, rushes-worker.
        url: of the collector, such as `http://localhost:4318`; None to make ids and send nothing.
        instance: `service.instance.id`.

    Raises:
        ConfigError: the address is no http or https URL.
    """
    attributes = {"service.name": service, "service.version": __version__}
    if instance is not None:
        attributes["service.instance.id"] = instance
    provider = TracerProvider(resource=Resource(attributes), shutdown_on_exit=False)
    batches: Batches | None = None
    if url is not None:
        batches = Batches(OTLPSpanExporter(endpoint=traces_url(url), timeout=TIMEOUT_S))
        provider.add_span_processor(batches)
        # It would tell of every try that failed; `Batches` says once that the collector is away.
        logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
    try:
        yield Tracing(provider, batches)
    finally:
        provider.shutdown()


class Tracing:
    """A provider, and what became of its spans.

    Attributes:
        batches: None where spans go nowhere.
    """

    def __init__(self, provider: TracerProvider, batches: Batches | None) -> None:
        self.provider, self.batches = provider, batches
        self.tracer = provider.get_tracer("rushes", __version__)


def traces_url(url: str) -> str:
    """Where a collector takes traces.

    >>> traces_url("http://localhost:4318"), traces_url("https://otlp.example/v1/traces")
    ('http://localhost:4318/v1/traces', 'https://otlp.example/v1/traces')
    """
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"otlp: {url!r} is no http:// or https:// URL")
    return url if url.rstrip("/").endswith("/v1/traces") else f"{url.rstrip('/')}/v1/traces"
