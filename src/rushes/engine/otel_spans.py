"""What a worker did for a job, as OpenTelemetry spans beneath whoever asked for it. No torch here.

A job's spans are made when its life in this worker ends, on the collector's thread, with the times at which
things happened: gateway > request > queue, text_encode, denoise > forward, vae_decode, video_encode, ...
Each carries the job's id; a unit that jobs shared is made once in the trace of each, with `rushes.batch`.
"""

from __future__ import annotations

from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from rushes.engine.job_spans import Life
from rushes.trace import Span

UNTOLD = frozenset(("job", "jobs", "tenant", "traceparent"))
"""Attributes that stay here: a shared unit names other tenants' jobs."""

_PROPAGATOR = TraceContextTextMapPropagator()


class SpanExport:
    """A `Sink` that gives spans to a tracer."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def saved(self, life: Life) -> None:
        """A span is sent once, when it has ended."""

    def ended(self, life: Life) -> None:
        """See `Sink`."""
        traceparent = life.request.attributes.get("traceparent")
        context = _PROPAGATOR.extract({"traceparent": str(traceparent)}) if traceparent else Context()
        made: dict[int, Context] = {}
        # Parents before their children, though they ended after them.
        beneath = life.spans[::-1]
        beneath.sort(key=lambda span: (span.start_ns, -span.end_ns))
        request = self._make(life, life.request, context, SpanKind.CONSUMER)
        for span in beneath:
            above = made.get(id(span.parent), request)
            made[id(span)] = self._make(life, span, above, SpanKind.INTERNAL)

    def _make(self, life: Life, span: Span, above: Context, kind: SpanKind) -> Context:
        attributes = {
            f"rushes.{name}": value
            for name, value in span.attributes.items()
            if name not in UNTOLD and value is not None
        }
        made = self._tracer.start_span(
            span.name,
            context=above,
            kind=kind,
            attributes={"rushes.job_id": life.job_id, **attributes},
            start_time=life.origin_ns + span.start_ns,
        )
        if span.error is not None:
            made.set_status(Status(StatusCode.ERROR, span.error))
        made.end(end_time=life.origin_ns + span.end_ns)
        return set_span_in_context(made, above)
