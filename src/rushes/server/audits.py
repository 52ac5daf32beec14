"""Audits: a share of the clips made from stored latents is made anew, in the batch lane, and compared."""

from __future__ import annotations

import hashlib
import json
import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import replace

from rushes.engine.client import StoreClient
from rushes.errors import RushesError
from rushes.server.reuse import reuse_of
from rushes.server.reuse_metrics import ReuseMetrics
from rushes.stores.base import JobRecord
from rushes.types import JobEvent, JobOptions

log = logging.getLogger(__name__)

AUDIT_TENANT = "\taudits"
"""Whose jobs these are. No key can have a tenant of this name, so nobody sees them, and nobody pays."""

Compare = Callable[[JobRecord, JobRecord], str]
"""The clip made from latents and the one made anew, both completed, to a verdict: "same" or "different"."""


class Audits:
    """A thread that queues audits and counts their outcome. A context manager.

    Which clips are audited their ids decide, so that several gateways choose the same ones and queue each
    once. The one that queued it first compares.

    Args:
        share: of the clips made from latents.
        compare: None counts "unknown".
    """

    def __init__(
        self, client: StoreClient, share: float, metrics: ReuseMetrics, compare: Compare | None = None
    ) -> None:
        self._client, self._share, self._metrics, self._compare = client, share, metrics, compare
        self._open: dict[str, str] = {}
        self._heard: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="audits", daemon=True)

    def __enter__(self) -> Audits:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._heard.put(None)
        self._thread.join()

    def hear(self, event: JobEvent) -> None:
        """Of every event that the feed tells; returns at once."""
        if event.kind == "completed":
            self._heard.put(event.job_id)

    def _run(self) -> None:
        while (job_id := self._heard.get()) is not None:
            try:
                self._look(job_id)
            except RushesError as error:  # a full queue, a clip that was deleted: this audit is left out
                log.info("job %s is not audited: %s", job_id, error)
            except Exception:  # a comparison's bug ends no thread
                log.exception("job %s could not be audited", job_id)

    def _look(self, job_id: str) -> None:
        jobs = self._client.store
        if job_id in self._open:
            original = jobs.get(self._open.pop(job_id))
            verdict = "unknown" if self._compare is None else self._compare(original, jobs.get(job_id))
            self._metrics.audited(verdict)
            return
        record = jobs.get(job_id)
        if reuse_of(record).get("kind") == "latent" and is_drawn(job_id, self._share):
            self._queue(record)

    def _queue(self, record: JobRecord) -> None:
        request = replace(record.request, source=None)
        options = JobOptions(lane="batch", tenant=AUDIT_TENANT, idempotency_key=f"audit {record.id}")
        if self._client.earlier(request, options) is not None:
            return
        told = json.dumps({"kind": "off", "audit_of": record.id})
        promise = self._client.promise(request, options)
        self._open[self._client.create(request, options, promise, reuse=told).id] = record.id


def is_drawn(job_id: str, share: float) -> bool:
    """Whether this job is one of the share.

    Example:
        >>> is_drawn("0f3a", 1.0), is_drawn("0f3a", 0.0)
        (True, False)
    """
    digest = hashlib.sha256(job_id.encode()).digest()
    return int.from_bytes(digest[:4], "big") < share * 2**32
