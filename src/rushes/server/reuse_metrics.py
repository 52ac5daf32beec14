"""What reuse counts, for Prometheus: requests by how they were answered, seconds saved, audits."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

KINDS = ("exact", "latent", "edit", "miss", "off")


class ReuseMetrics(Collector):
    """Counts of one gateway, from when it began. Safe for threads.

    Attributes:
        num_entries: how many clips the index holds now; None where there is none.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kinds: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
        self._misses: Counter[str] = Counter()
        self._saved_s: dict[str, float] = dict.fromkeys(("exact", "latent", "edit"), 0.0)
        self._audits: Counter[str] = Counter()
        self.num_entries: Callable[[], int] | None = None

    def answered(self, kind: str, reason: str | None, saved_s: float | None) -> None:
        """A request was taken; `reason` of a miss, of which the first word counts."""
        with self._lock:
            self._kinds[kind if kind in KINDS else "miss"] += 1
            if kind == "miss" and reason is not None:
                self._misses[reason.partition(":")[0]] += 1
            if saved_s is not None and kind in self._saved_s:
                self._saved_s[kind] += saved_s

    def audited(self, verdict: str) -> None:
        """A hit was made again: "same", "different", or "unknown" where nothing compares them."""
        with self._lock:
            self._audits[verdict] += 1

    def describe(self) -> Sequence[Metric]:
        """See `Collector`."""
        return tuple(self.collect())

    def collect(self) -> Iterator[Metric]:
        """See `Collector`."""
        with self._lock:
            kinds, misses, audits = dict(self._kinds), dict(self._misses), dict(self._audits)
            saved_s = dict(self._saved_s)
        yield _family(
            "rushes_reuse_requests", "Requests, by what they took from earlier ones.", "kind", kinds
        )
        yield _family("rushes_reuse_misses", "Requests that took nothing, by why.", "reason", misses)
        yield _family(
            "rushes_reuse_saved_seconds", "Device seconds that were predicted to be saved.", "kind", saved_s
        )
        yield _family("rushes_reuse_audits", "Hits that were made again, by outcome.", "verdict", audits)
        if self.num_entries is not None:
            entries = GaugeMetricFamily("rushes_reuse_entries", "Clips in the index of latents.")
            entries.add_metric((), self.num_entries())
            yield entries


def _family(name: str, text: str, label: str, values: dict[str, int] | dict[str, float]) -> Metric:
    family = CounterMetricFamily(name, text, labels=(label,))
    for value, number in values.items():
        family.add_metric((value,), number)
    return family
