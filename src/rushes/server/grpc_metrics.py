"""What a gateway counts of its gRPC calls, for Prometheus: HTTP's figures, by method and code."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from rushes.server.metrics import SECONDS, GatewayMetrics


class GrpcMetrics:
    """Calls of one gateway, in its registry; once for each. Labels are of closed sets."""

    def __init__(self, gateway: GatewayMetrics) -> None:
        self._gateway = gateway
        registry = gateway.registry
        self._requests = Counter(
            "rushes_grpc_requests", "Calls that have ended.", ("method", "code"), registry=registry
        )
        self._seconds = Histogram(
            "rushes_grpc_response_start_seconds",
            "From a call's begin to its first message or its error; a stream may go on for long after.",
            ("method",),
            buckets=SECONDS,
            registry=registry,
        )
        self._open = Gauge("rushes_grpc_open_requests", "Calls that go on.", ("method",), registry=registry)
        self._bytes = Counter(
            "rushes_grpc_response_bytes", "Bytes of messages sent.", ("method",), registry=registry
        )

    def began(self, method: str) -> None:
        """A call is here."""
        self._open.labels(method).inc()

    def answered(self, method: str, seconds: float, trace_id: str | None) -> None:
        """Its first message, or its error, goes out."""
        self._seconds.labels(method).observe(seconds, _exemplar(trace_id))

    def ended(
        self, method: str, code: str, num_bytes: int, *, error_code: str | None, trace_id: str | None
    ) -> None:
        """It is over, with gRPC's `code`, and the library's word of an error."""
        self._gateway.refused(error_code)
        self._requests.labels(method, code).inc(exemplar=_exemplar(trace_id))
        self._open.labels(method).dec()
        self._bytes.labels(method).inc(num_bytes)


def _exemplar(trace_id: str | None) -> dict[str, str] | None:
    return None if trace_id is None else {"trace_id": trace_id}
