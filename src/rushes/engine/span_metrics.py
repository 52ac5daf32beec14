"""How many spans a process has sent to its collector, and how many it lost. No torch here."""

from __future__ import annotations

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from rushes.engine.otlp import Batches


class SpanDelivery(Collector):
    """Reads the counts at every scrape.

    Args:
        component: gateway or worker, a part of the metric's name, as a gateway shows its workers' too.
    """

    def __init__(self, component: str, batches: Batches) -> None:
        self._name, self._batches = f"rushes_{component}_spans", batches

    def collect(self) -> list[CounterMetricFamily]:
        """See `Collector`."""
        family = CounterMetricFamily(self._name, "Spans for the trace collector.", labels=("outcome",))
        family.add_metric(("sent",), self._batches.num_sent)
        family.add_metric(("dropped",), self._batches.num_dropped)
        return [family]
