"""A worker's Prometheus metrics, counted from the spans of its work. No torch here.

Every series is of one model; labels are lanes, stages, outcomes and ends, each of a closed set: no job, no
tenant, no prompt. Exemplars carry the trace id of the request that came with one.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    start_http_server,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from rushes import __version__
from rushes.trace import Span
from rushes.types import Lane

LANES = (*get_args(Lane), "mixed")
"""A unit that jobs of both lanes shared is "mixed"."""

STAGES = ("text_encode", "denoise", "vae_decode")
"""Units of the device."""

UNIT_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
WAIT_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
WHOLE_S = (0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 40, 60, 120, 300, 900, 3600)
RATIOS = (0.25, 0.5, 0.7, 0.8, 0.9, 0.95, 1.05, 1.1, 1.2, 1.4, 2, 4)
BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 32)

ENDS: Mapping[str | None, str] = {
    None: "completed",
    "JobCancelled": "cancelled",
    "EngineStopped": "requeued",
    "LeaseLost": "lost",
    "DeadlineExceeded": "late",
    "OutOfMemory": "out_of_memory",
}
"""By the error that a life ended with; any other is "failed"."""

FAILED = "failed"


@dataclass(slots=True)
class _Open:
    """A job in work."""

    lane: str
    exemplar: dict[str, str] | None
    is_fresh: bool
    has_frame: bool = False


class WorkerMetrics:
    """A `rushes.trace.Listener` with a registry of its own.

    Args:
        model: the value of every series' label `model`.
        memory: bytes of the device by kind (used, reserved, budget, ...), asked at every scrape.

    Attributes:
        registry: to be served.
    """

    def __init__(self, model: str, memory: Callable[[], Mapping[str, float]] = dict) -> None:
        self.registry = CollectorRegistry()
        # By a name of its own: a gateway shows its workers' memory beside its own.
        ProcessCollector(namespace="rushes_worker", registry=self.registry)
        self.registry.register(_DeviceMemory(model, memory))
        self._model = model
        self._jobs: dict[str, _Open] = {}
        self._info()
        by_stage = ("model", "lane", "stage")
        self._unit_s = self._histogram(
            "rushes_stage_unit_seconds",
            "Seconds of one unit of a stage: a solver step, a decoded latent frame, an encoded prompt.",
            by_stage,
            UNIT_S,
        )
        self._wait_s = self._histogram(
            "rushes_queue_wait_seconds", "Seconds that a job waited for its next unit.", by_stage, WAIT_S
        )
        self._batch = self._histogram(
            "rushes_batch_jobs", "Jobs that shared a unit.", ("model", "stage"), BATCHES
        )
        by_lane = ("model", "lane")
        self._first_frame_s = self._histogram(
            "rushes_first_frame_seconds",
            "From submission until the first frame is written.",
            by_lane,
            WHOLE_S,
        )
        self._job_s = self._histogram(
            "rushes_job_seconds", "From submission until a job is completed.", by_lane, WHOLE_S
        )
        self._ratio = self._histogram(
            "rushes_cost_ratio", "Device seconds of a job over those predicted.", by_lane, RATIOS
        )
        self._ends = self._counter(
            "rushes_jobs", "Jobs that left this worker, by how.", ("model", "lane", "end")
        )
        self._cache = self._counter(
            "rushes_cache_lookups",
            "Look-ups of prompt embeddings, and steps that asked the step cache.",
            ("model", "cache", "outcome"),
        )
        self._checkpoints = self._counter("rushes_checkpoints", "Checkpoints written.", ("model",))
        self._active = Gauge(
            "rushes_active_jobs", "Jobs that this worker holds.", by_lane, registry=self.registry
        )
        for lane in get_args(Lane):  # there from the start, so that a rate over the first one is right
            self._active.labels(model, lane)
            for end in (*ENDS.values(), FAILED):
                self._ends.labels(model, lane, end)

    def opened(self, span: Span) -> None:
        """A request is a job that was taken."""
        if span.name == "request" and span.parent is None and "job" in span.attributes:
            lane = str(span.attributes.get("lane", "batch"))
            traceparent = str(span.attributes.get("traceparent") or "")
            trace_id = traceparent.split("-")[1] if traceparent.count("-") == 3 else None
            self._jobs[str(span.attributes["job"])] = _Open(
                lane=lane,
                exemplar=None if trace_id is None else {"trace_id": trace_id},
                is_fresh=not span.attributes.get("is_resumed"),
            )
            self._active.labels(self._model, lane).inc()

    def closed(self, span: Span) -> None:
        """See `Listener`."""
        read = _READERS.get(span.name)
        if read is not None:
            read(self, span)

    def _unit(self, span: Span) -> None:
        jobs = [job for name in _jobs_of(span) if (job := self._jobs.get(name))]
        if not jobs:
            return
        lanes = {job.lane for job in jobs}
        lane = lanes.pop() if len(lanes) == 1 else "mixed"
        self._unit_s.labels(self._model, lane, span.name).observe(span.seconds, jobs[0].exemplar)
        self._batch.labels(self._model, span.name).observe(len(jobs))

    def _waited(self, span: Span) -> None:
        job = self._jobs.get(str(span.attributes.get("job")))
        stage = span.attributes.get("stage")
        if job is not None and stage in STAGES:
            self._wait_s.labels(self._model, job.lane, stage).observe(span.seconds, job.exemplar)

    def _encoded(self, span: Span) -> None:
        """The first frames of a clip are written: it can be watched from now on."""
        request = span.parent
        job = self._jobs.get(str(request.attributes.get("job"))) if request else None
        if request is None or job is None or job.has_frame or not span.attributes.get("frames"):
            return
        job.has_frame = True
        if job.is_fresh:
            seconds = (span.end_ns - request.start_ns) / 1e9
            self._first_frame_s.labels(self._model, job.lane).observe(seconds, job.exemplar)

    def _left(self, span: Span) -> None:
        job = self._jobs.pop(str(span.attributes.get("job")), None)
        if job is None or span.parent is not None:
            return
        self._active.labels(self._model, job.lane).dec()
        self._ends.labels(self._model, job.lane, ENDS.get(span.error, FAILED)).inc(exemplar=job.exemplar)
        if span.error is not None:
            return
        if job.is_fresh:
            self._job_s.labels(self._model, job.lane).observe(span.seconds, job.exemplar)
        predicted_s, actual_s = span.attributes.get("predicted_s"), span.attributes.get("actual_s")
        if isinstance(predicted_s, float) and isinstance(actual_s, float) and predicted_s > 0:
            self._ratio.labels(self._model, job.lane).observe(actual_s / predicted_s, job.exemplar)

    def _looked_up(self, span: Span) -> None:
        outcome = span.attributes.get("outcome")
        if span.name == "embedding_cache":
            self._count_lookup("prompt_embedding", "hit" if outcome == "hit" else "miss")
        else:
            self._count_lookup("step", "hit" if outcome == "reused" else "miss")

    def _count_lookup(self, cache: str, outcome: str) -> None:
        self._cache.labels(self._model, cache, outcome).inc()

    def _saved(self, span: Span) -> None:
        if span.error is None:
            self._checkpoints.labels(self._model).inc()

    def _info(self) -> None:
        info = Gauge(
            "rushes_build_info", "1; what runs.", ("component", "version", "python"), registry=self.registry
        )
        info.labels("worker", __version__, platform.python_version()).set(1)

    def _histogram(
        self, name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...]
    ) -> Histogram:
        return Histogram(name, text, labels, buckets=buckets, registry=self.registry)

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(name, text, labels, registry=self.registry)


_READERS: Mapping[str, Callable[[WorkerMetrics, Span], None]] = {
    **dict.fromkeys(STAGES, WorkerMetrics._unit),
    "queue": WorkerMetrics._waited,
    "video_encode": WorkerMetrics._encoded,
    "request": WorkerMetrics._left,
    "embedding_cache": WorkerMetrics._looked_up,
    "step_cache": WorkerMetrics._looked_up,
    "checkpoint": WorkerMetrics._saved,
}


def _jobs_of(span: Span) -> list[str]:
    return str(span.attributes.get("jobs", "")).split(",")


class _DeviceMemory(Collector):
    """Asks at every scrape."""

    def __init__(self, model: str, memory: Callable[[], Mapping[str, float]]) -> None:
        self._model, self._memory = model, memory

    def collect(self) -> list[GaugeMetricFamily]:
        """See `Collector`."""
        family = GaugeMetricFamily(
            "rushes_device_memory_bytes", "Memory of the device, by kind.", labels=("model", "kind")
        )
        for kind, num_bytes in self._memory().items():
            family.add_metric((self._model, kind), num_bytes)
        return [family]


class MetricsServer:
    """Serves a registry at `/metrics` on a thread, in Prometheus' format or OpenMetrics as asked for. A
    context manager.

    Args:
        port: 0 for any free one.

    Attributes:
        url: of the metrics.
    """

    def __init__(self, registry: CollectorRegistry, port: int, host: str = "127.0.0.1") -> None:
        self._server, self._thread = start_http_server(port, host, registry)
        self.url = f"http://{host}:{self._server.server_port}/metrics"

    def __enter__(self) -> MetricsServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
