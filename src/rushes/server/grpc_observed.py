"""Puts logs, traces and metrics around gRPC's calls, as `rushes.server.instrument` does around HTTP's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any
from urllib.parse import unquote

import grpc
from opentelemetry.trace import NoOpTracer, Span, Status, StatusCode

from rushes.server import access_log
from rushes.server.grpc_messages import code_of
from rushes.server.grpc_metrics import GrpcMetrics
from rushes.server.logs import about
from rushes.server.metrics import GatewayMetrics
from rushes.server.problems import Problem
from rushes.server.proto.rushes.v1 import videos_pb2
from rushes.server.service import Service, request_id_of
from rushes.server.tracing import TRACE_ID_HEADER, answering

NAME: str = videos_pb2.DESCRIPTOR.services_by_name["Videos"].full_name

GONE = 499
"""What the log says of a caller that left, as it does for HTTP."""


class Call:
    """One call that is being answered: what its handler asks of it, and what is told of it afterwards.

    Attributes:
        method: the last part of its name.
        metadata: of the caller, the first value of each name, texts only.
        state: as HTTP's `scope["state"]`: `request_id`, `trace_id`, `traceparent`, `job_id`, `error_code`.
        code, status: gRPC's, and what HTTP would have answered; of a caller that left until it ends.
        num_bytes: of the messages that were sent.
    """

    def __init__(self, method: str, context: Any, metrics: GrpcMetrics) -> None:
        self.method, self._context, self._metrics = method, context, metrics
        given = context.invocation_metadata() or ()
        self.metadata = {name: value for name, value in reversed(given) if isinstance(value, str)}
        self.state: dict[str, Any] = {"request_id": request_id_of(self.metadata.get("x-request-id", ""))}
        self.code, self.status, self.num_bytes = "CANCELLED", GONE, 0
        self._begin, self._is_answered = perf_counter(), False

    @property
    def seconds(self) -> float:
        """Since it began."""
        return perf_counter() - self._begin

    @property
    def ids(self) -> tuple[tuple[str, str], ...]:
        """Trailing metadata of every answer."""
        trace_id = self.state.get("trace_id")
        more = () if trace_id is None else ((TRACE_ID_HEADER, trace_id),)
        return (("x-request-id", self.state["request_id"]), *more)

    def sends(self, message: Any) -> None:
        """A message goes out."""
        self._answers()
        self.num_bytes += message.ByteSize()

    async def write(self, message: Any) -> None:
        """One of a stream."""
        self.sends(message)
        await self._context.write(message)

    def succeeded(self) -> None:
        """It ends well."""
        self.code, self.status = "OK", 200
        self._context.set_trailing_metadata(self.ids)

    def failed(self, problem: Problem) -> None:
        """It ends with an error."""
        self.code, self.status = code_of(problem), problem.status
        self.state["error_code"] = problem.code
        self._answers()

    def _answers(self) -> None:
        if not self._is_answered:
            self._is_answered = True
            self._metrics.answered(self.method, self.seconds, self.state.get("trace_id"))


class Observer:
    """Makes a `Call` of each call, and tells of it when it has ended. Once for each gateway."""

    def __init__(self, service: Service) -> None:
        self._metrics = GrpcMetrics(service.metrics or GatewayMetrics())
        self._tracer = service.tracer or NoOpTracer()

    @contextmanager
    def observing(self, method: str, context: Any) -> Iterator[Call]:
        """Around the work of a call, in its own task."""
        call = Call(method, context, self._metrics)
        about(call.state)
        attributes = {"rpc.system": "grpc", "rpc.service": NAME, "rpc.method": method}
        self._metrics.began(method)
        try:
            with answering(self._tracer, f"{NAME}/{method}", call.metadata, attributes, call.state) as span:
                try:
                    yield call
                finally:
                    _name_end(span, call)
        finally:
            self._tell(call, context)

    def _tell(self, call: Call, context: Any) -> None:
        error_code, trace_id = call.state.get("error_code"), call.state.get("trace_id")
        self._metrics.ended(call.method, call.code, call.num_bytes, error_code=error_code, trace_id=trace_id)
        path = f"/{NAME}/{call.method}"
        more = {
            "method": "gRPC",
            "path": path,
            "route": path,
            "grpc_code": call.code,
            "bytes": call.num_bytes,
            "client": address_of(context.peer()),
            "code": error_code,
        }
        access_log.tell(status=call.status, seconds=call.seconds, more=more)


def _name_end(span: Span, call: Call) -> None:
    number, _ = getattr(grpc.StatusCode, call.code).value
    span.set_attribute("rpc.grpc.status_code", number)
    if call.status >= 500:
        span.set_status(Status(StatusCode.ERROR))


def address_of(peer: str) -> str:
    """Of gRPC's name for a caller, without its port.

    >>> address_of("ipv4:127.0.0.1:50051"), address_of("ipv6:%5B::1%5D:50051"), address_of("unix:/a")
    ('127.0.0.1', '::1', '/a')
    """
    kind, _, address = unquote(peer).partition(":")
    if kind not in ("ipv4", "ipv6"):
        return address
    return address.rpartition(":")[0].strip("[]")
