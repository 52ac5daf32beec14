"""Flags that say what a process tells of itself, and a worker's listeners behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import click

from rushes.errors import ConfigError

if TYPE_CHECKING:
    from rushes.engine.otlp import Batches
    from rushes.engine.planner import CostPlanner
    from rushes.engine.workplace import Workplace
    from rushes.pipelines.model import Model
    from rushes.server.redaction import Redactor

Command = Callable[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Observing:
    """What a worker tells of itself, and to whom.

    Attributes:
        metrics_port: where to serve Prometheus; 0 for any free one, None for nowhere.
        otlp: URL of an OpenTelemetry collector.
    """

    metrics_port: int | None = None
    otlp: str | None = None
    log_format: Literal["text", "json"] = "text"
    log_level: str = "warning"
    log_prompts: bool = False

    def configure_logs(self) -> Redactor:
        """Of this process; what hides prompts in them."""
        from rushes.server.logs import configure_logs
        from rushes.server.redaction import Redactor

        redactor = Redactor(shows_prompts=self.log_prompts)
        configure_logs(self.log_format, self.log_level, redactor=redactor)
        return redactor


def observing_options(command: Command) -> Command:
    """The flags of `Observing`, given to the command as `observing`."""

    def with_observing(**given: Any) -> Any:
        found = {name: given.pop(name) for name in Observing.__dataclass_fields__}
        return command(observing=Observing(**found), **given)

    with_observing.__name__, with_observing.__doc__ = command.__name__, command.__doc__
    # Options that were added below this decorator.
    with_observing.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
    flags = (
        click.option(
            "--metrics-port",
            type=click.IntRange(0, 65_535),
            help="serve Prometheus metrics there, on 127.0.0.1; 0 for any free port",
        ),
        click.option("--otlp", metavar="URL", help="OpenTelemetry collector, such as http://localhost:4318"),
        click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True),
        click.option(
            "--log-level",
            type=click.Choice(["debug", "info", "warning", "error"]),
            default="warning",
            show_default=True,
        ),
        click.option("--log-prompts", is_flag=True, help="let prompts into the logs"),
    )
    found: Command = with_observing
    for flag in reversed(flags):
        found = flag(found)
    return found


@contextmanager
def observed(
    wanted: Observing, place: Workplace, owner: str, model: Model, planner: CostPlanner
) -> Iterator[str | None]:
    """Listen to a worker's spans within the block: traces are always kept, the rest where it is wanted. The
    value is the URL of its metrics.

    Raises:
        ConfigError: what is wanted needs a package that is not installed, a port is taken.
    """
    from rushes.engine.job_spans import Sink, collecting
    from rushes.engine.job_traces import TraceWriter

    sinks: list[Sink] = [TraceWriter(place.traces, place.jobs, owner)]
    url = batches = None
    with ExitStack() as stack:
        if wanted.otlp is not None:
            check_installed("--otlp", "opentelemetry.exporter")
            from rushes.engine.otel_spans import SpanExport
            from rushes.engine.otlp import tracer_provider

            tracing = stack.enter_context(tracer_provider("rushes-worker", wanted.otlp, owner))
            sinks.append(SpanExport(tracing.tracer))
            batches = tracing.batches
        if wanted.metrics_port is not None:
            url = stack.enter_context(_served_metrics(wanted.metrics_port, model, planner, batches))
        stack.enter_context(collecting(*sinks))
        yield url


@contextmanager
def _served_metrics(port: int, model: Model, planner: CostPlanner, batches: Batches | None) -> Iterator[str]:
    check_installed("--metrics-port", "prometheus_client")
    from rushes.engine.worker_metrics import MetricsServer, WorkerMetrics
    from rushes.trace import listen

    metrics = WorkerMetrics(model.rules.name, lambda: device_memory(model, planner))
    if batches is not None:
        from rushes.engine.span_metrics import SpanDelivery

        metrics.registry.register(SpanDelivery("worker", batches))
    try:
        server = MetricsServer(metrics.registry, port)
    except OSError as error:
        raise ConfigError(f"--metrics-port: {port} cannot be used ({error.strerror})") from error
    with server, listen(metrics):
        yield server.url


def device_memory(model: Model, planner: CostPlanner) -> Mapping[str, float]:
    """Bytes: what jobs and weights may take, what weights do take, and of a GPU what is taken now."""
    found = {
        "budget": float(planner.memory.budget_bytes),
        "reserve": float(planner.memory.reserve_bytes),
        "weights": float(planner.memory.weights_bytes),
    }
    if model.device.type == "cuda":
        import torch

        found["allocated"] = float(torch.cuda.memory_allocated(model.device))
        found["cached"] = float(torch.cuda.memory_reserved(model.device))
    return found


def check_installed(what: str, module: str) -> None:
    """Raises `ConfigError` unless a module of the service's packages is there."""
    try:
        is_there = find_spec(module) is not None
    except ModuleNotFoundError:
        is_there = False
    if not is_there:
        raise ConfigError(f"{what}: needs packages that are not installed (pip install 'rushes[serve]')")
