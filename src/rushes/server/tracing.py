"""A trace of every request: a span that continues an incoming `traceparent`, and the jobs it makes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rushes.server.routes import method_of, route_of

TRACE_ID_HEADER = "x-trace-id"
_PROPAGATOR = TraceContextTextMapPropagator()


class TracingMiddleware:
    """ASGI middleware: a server span around each HTTP request, and its trace's id in `X-Trace-Id`.

    The span is the current one while the application runs, in its tasks and threads too, so `traceparent()`
    names it, as do `trace_id` and `traceparent` of the request's state. It ends with the last byte of the
    answer; of an event stream, when the reader leaves. Neither query nor headers go into it, since both may
    hold keys.

    Args:
        tracer: of a provider of ours (`rushes.engine.otlp.tracer_provider`).
        untraced: paths of which nobody wants a trace.
    """

    def __init__(
        self, app: ASGIApp, tracer: Tracer, *, untraced: Iterable[str] = ("/health", "/ready", "/metrics")
    ) -> None:
        self._app, self._tracer, self._untraced = app, tracer, frozenset(untraced)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http" or scope["path"] in self._untraced:
            await self._app(scope, receive, send)
            return
        attributes = {"http.request.method": scope["method"], "url.path": scope["path"]}
        state = scope.setdefault("state", {})
        with answering(self._tracer, method_of(scope), _carrier(scope), attributes, state) as span:

            async def send_with_id(message: Message) -> None:
                if message["type"] == "http.response.start":
                    _answered(span, message["status"])
                    header = (TRACE_ID_HEADER.encode(), state["trace_id"].encode())
                    message = {**message, "headers": [*message.get("headers", ()), header]}
                await send(message)

            try:
                await self._app(scope, receive, send_with_id)
            finally:
                route = route_of(scope)
                span.update_name(f"{method_of(scope)} {route}")
                span.set_attribute("http.route", route)


@contextmanager
def answering(
    tracer: Tracer,
    name: str,
    carrier: Mapping[str, str],
    attributes: Mapping[str, str],
    state: MutableMapping[str, Any],
) -> Iterator[Span]:
    """A server span around a request of whatever protocol, the current one within the block and its threads.

    Args:
        carrier: `traceparent` and `tracestate` of the caller, if it gave any; what cannot be read is none.
        state: of the request, where `trace_id` and `traceparent` are put.
    """
    found = _PROPAGATOR.extract(carrier, context=Context())
    span = tracer.start_span(name, context=found, kind=SpanKind.SERVER, attributes=attributes)
    context = trace.set_span_in_context(span, Context())
    if span.get_span_context().is_valid:
        state.update(trace_id=_id(span), traceparent=traceparent(context))
    # `use_span` would end it by an exception's message, which may quote what was asked.
    try:
        with trace.use_span(span, record_exception=False, set_status_on_exception=False):
            yield span
    except Exception as error:
        span.set_status(Status(StatusCode.ERROR, type(error).__name__))
        raise
    finally:
        span.end()


def _carrier(scope: Scope) -> dict[str, str]:
    return {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in scope["headers"]
        if name in (b"traceparent", b"tracestate")
    }


def _answered(span: Span, status: int) -> None:
    span.set_attribute("http.response.status_code", status)
    if status >= 500:
        span.set_status(Status(StatusCode.ERROR))


def _id(span: Span) -> str:
    return trace.format_trace_id(span.get_span_context().trace_id)


def trace_id() -> str | None:
    """Of the request that is being answered here; None outside of any."""
    context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else None


def traceparent(context: Context | None = None) -> str | None:
    """For `JobOptions.traceparent` of a job that is made here (or in this context); None outside of any
    request."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, context)
    return carrier.get("traceparent")
