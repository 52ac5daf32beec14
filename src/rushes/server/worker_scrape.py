"""What the workers of a store tell of themselves, as part of a gateway's own metrics.

On one machine one scrape of the gateway then shows everything. Each worker announces where its metrics are;
they are fetched at every scrape, and each series gets the label `worker`.
"""

from __future__ import annotations

import http.client
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from rushes.engine.announcements import metrics_urls
from rushes.errors import RushesError
from rushes.stores.disk import BlobFolder

log = logging.getLogger(__name__)

TIMEOUT_S = 1.0
MOST_BYTES = 4 * 2**20
MOST_WORKERS = 64
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
PREFIX = "rushes_"
BUILD_INFO = "rushes_build_info"


class WorkerScrape(Collector):
    """Asks all workers at once, each for a second at most; one that does not answer is `rushes_worker_up` 0.

    Args:
        urls: by worker, asked at every scrape.
    """

    def __init__(self, urls: Callable[[], Mapping[str, str]]) -> None:
        self._urls = urls

    @classmethod
    def of(cls, folder: BlobFolder) -> WorkerScrape:
        """The workers that announce themselves in `Workplace.workers`."""
        return cls(lambda: metrics_urls(folder))

    def describe(self) -> Sequence[Metric]:
        """Nothing: or it would be asked when it is registered."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """See `Collector`."""
        try:
            urls = dict(sorted(self._urls().items())[:MOST_WORKERS])
        except RushesError as error:
            log.warning("no workers are asked for metrics: %s", error)
            return
        up = GaugeMetricFamily("rushes_worker_up", "1 where a worker answers.", labels=("worker",))
        merged: dict[str, Metric] = {}
        with ThreadPoolExecutor(max_workers=max(1, len(urls))) as pool:
            answers = dict(zip(urls, pool.map(families, urls.values()), strict=True))
        for worker, found in answers.items():
            up.add_metric((worker,), 0.0 if found is None else 1.0)
            for family in found or ():
                into = merged.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type, family.unit)
                )
                samples = (sample for sample in family.samples if not sample.name.endswith("_created"))
                into.samples += [_of_worker(sample, worker) for sample in samples]
        yield up
        yield from merged.values()


def families(url: str) -> list[Metric] | None:
    """A worker's own metrics; None where it does not answer as it should."""
    try:
        found = list(text_string_to_metric_families(_read(url)))  # type: ignore[no-untyped-call]
    except (OSError, http.client.HTTPException, ValueError) as error:
        log.debug("%s: %s", url, error)
        return None
    # What both export by one name cannot stand beside each other.
    return [family for family in found if family.name.startswith(PREFIX) and family.name != BUILD_INFO]


def _read(url: str) -> str:
    """Straight to the worker: no proxy of the environment's is asked, no redirection followed."""
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname is None:
        raise ValueError(f"{url!r} is no http:// address")
    connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=TIMEOUT_S)
    try:
        connection.request("GET", parts.path, headers={"Accept": OPENMETRICS})
        response = connection.getresponse()
        body = response.read(MOST_BYTES)
    finally:
        connection.close()
    if response.status != 200:
        raise ValueError(f"status {response.status}")
    return body.decode()


def _of_worker(sample: Sample, worker: str) -> Sample:
    return sample._replace(labels={**sample.labels, "worker": worker})
