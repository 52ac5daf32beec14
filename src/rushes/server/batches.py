"""Many jobs from a template: checked as a whole, queued a few at a time, gone on with after a crash."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rushes.engine.announcements import Estimate, StoreAdmission
from rushes.errors import InvalidRequest, UnknownJob
from rushes.server.asks import ask_of, key_of
from rushes.server.auth import Caller
from rushes.server.batch_asks import BatchAsk, in_row
from rushes.server.videos import error_of, notes_of
from rushes.stores.base import JobRecord, JobStore
from rushes.stores.batches import Batches, BatchRecord, BatchRow
from rushes.types import FINAL, GenerateRequest, JobOptions

MOST_OPEN = 20
"""Batches of a tenant of which rows are still to be queued: their templates and rows are held in memory."""

MOST_NOTES = 20
"""That an estimate tells, of all rows."""

COUNTS = ("waiting", "queued", "running", "completed", "failed", "cancelled", "expired")


class BatchDesk:
    """What can be done with batches, whatever the protocol.

    Methods wait for the disk: an edge calls them on a thread.

    Args:
        models: that may be asked for now, the default one first.
    """

    def __init__(
        self,
        batches: Batches,
        jobs: JobStore,
        admission: StoreAdmission,
        models: Callable[[], Sequence[str]],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.batches = batches
        self._jobs, self._admission, self._models, self._clock = jobs, admission, models, clock

    def estimate(self, ask: BatchAsk, caller: Caller) -> dict[str, Any]:
        """What it would take: GPU-seconds by the cost model, and when it would be ready; None where no worker
        tells. Raises `InvalidRequest` with row and field."""
        requests = list(self._requests(ask, caller))
        found = self._estimate(requests, caller)
        notes = dict.fromkeys(note for request in requests for note in notes_of(request))
        told = {"total": len(ask.rows), **_figures(found), "notes": list(notes)[:MOST_NOTES]}
        return {"object": "batch.estimate", **told}

    def create(self, ask: BatchAsk, caller: Caller, idempotency_key: str | None = None) -> BatchRecord:
        """Take a batch whose every row is valid; `BatchRunner` queues its rows. The same key and batch again
        is the same batch.

        Raises:
            InvalidRequest: with row and field; nothing is queued then.
            IdempotencyConflict: the key belongs to another batch.
            TooManyBatches: `MOST_OPEN` of the tenant still wait for their jobs.
        """
        for _ in self._requests(ask, caller):
            pass
        # What is the default may change while rows wait.
        fields = {**ask.fields, "model": ask.fields.get("model") or self._models()[0]}
        spec: dict[str, Any] = {
            "template": ask.template,
            "rows": [dict(row) for row in ask.rows],
            "fields": fields,
        }
        return self.batches.create(
            key_id=caller.key_id,
            tenant=caller.tenant,
            spec=spec,
            total=len(ask.rows),
            now=self._clock(),
            idempotency_key=key_of(idempotency_key),
            most_open=MOST_OPEN,
        )

    def get(self, batch_id: str, caller: Caller) -> BatchRecord:
        """Raises `UnknownBatch`, also for another tenant's."""
        return self.batches.get(batch_id, tenant=caller.tenant)

    def cancel(self, batch_id: str, caller: Caller | None) -> BatchRecord:
        """Queue no more of it, and cancel what has not ended; a row whose job is just being made is cancelled
        by its `BatchRunner`. None: whose it is does not matter. Raises `UnknownBatch`."""
        tenant = None if caller is None else caller.tenant
        record = self.batches.cancel(batch_id, tenant=tenant, now=self._clock())
        for row in self.batches.rows(batch_id):
            if row.job_id is not None and (job := self._job(row)) is not None and job.status not in FINAL:
                self._jobs.cancel(row.job_id)
        return record

    def sweep(self, keep_days: float) -> int:
        """Forget batches, prompts and all, that are as old and whose jobs are all swept away; returns how
        many."""
        found = self.batches.closed_before(self._clock() - 86_400 * keep_days)
        # The last job is swept last, so that one look mostly tells.
        gone = [one for one in found if not any(map(self._job, reversed(self.batches.rows(one))))]
        for batch_id in gone:
            self.batches.forget(batch_id)
        return len(gone)

    def batch(self, record: BatchRecord) -> dict[str, Any]:
        """The object that every call answers with, as of the record's rows; docs/service.md has its
        fields."""
        failed = [number for number in self.batches.failed(record.id) if number <= record.num_rows]
        # A row's idempotency key is the batch's and its number. One that failed may be another job's.
        tallies = self._jobs.tallies(record.tenant, f"{record.id}/", most=record.num_rows, without=failed)
        counts = dict.fromkeys(COUNTS, 0) | {tally.status: tally.jobs for tally in tallies}
        counts["failed"] += len(failed)
        counts["expired"] = record.num_rows - sum(counts.values())
        counts["waiting" if record.cancelled_at is None else "cancelled"] += record.total - record.num_rows
        return {
            "id": record.id,
            "object": "batch",
            "status": _status_of(record, counts),
            "created_at": int(record.created_at),
            "cancelled_at": None if record.cancelled_at is None else int(record.cancelled_at),
            "template": record.spec["template"],
            "total": record.total,
            "counts": counts,
            "predicted_s": sum(tally.predicted_s for tally in tallies),
            "actual_s": sum(tally.actual_s for tally in tallies),
        }

    def page(self, record: BatchRecord, *, after: int, limit: int) -> dict[str, Any]:
        """Rows behind number `after`, with their videos."""
        rows = self.batches.rows(record.id, after=after, limit=limit + 1)
        return {"rows": [self._row(row) for row in rows[:limit]], "has_more": len(rows) > limit}

    def _row(self, row: BatchRow) -> dict[str, Any]:
        job = self._job(row)
        error = None if job is None else error_of(job)
        if row.error is not None:
            error = {"code": "invalid_request", "message": row.error}
        status = _status(row, None if job is None else job.status)
        return {"row": row.number, "video_id": row.job_id, "status": status, "error": error}

    def ask(self, batch_id: str) -> BatchAsk:
        """As it was asked for. Raises `UnknownBatch`."""
        spec: Mapping[str, Any] = self.batches.get(batch_id).spec
        return BatchAsk(template=spec["template"], rows=spec["rows"], fields=spec["fields"])

    def _requests(self, ask: BatchAsk, caller: Caller) -> Iterator[GenerateRequest]:
        models = self._models()
        for number, body in enumerate(ask.bodies(), start=1):
            try:
                request, _ = ask_of(body, models=models, tenant=caller.tenant)
            except InvalidRequest as error:
                raise in_row(number, error) from error
            yield request

    def _estimate(self, requests: Sequence[GenerateRequest], caller: Caller) -> Estimate | None:
        """Of all rows; None where one of their pipelines is served by nobody."""
        by_pipeline: dict[str, list[GenerateRequest]] = {}
        for request in requests:
            by_pipeline.setdefault(request.pipeline, []).append(request)
        options = JobOptions(lane="batch", tenant=caller.tenant)
        found = [self._admission.estimate(some, options) for some in by_pipeline.values()]
        told = [each for each in found if each is not None]
        if len(told) < len(found):
            return None
        return Estimate(
            predicted_s=sum(each.predicted_s for each in told),
            eta_s=max(each.eta_s for each in told),
            num_workers=sum(each.num_workers for each in told),
        )

    def _job(self, row: BatchRow) -> JobRecord | None:
        if row.job_id is None:
            return None
        try:
            return self._jobs.get(row.job_id)
        except UnknownJob:
            return None


def _figures(found: Estimate | None) -> dict[str, Any]:
    if found is None:
        return {"predicted_s": None, "eta_s": None, "num_workers": 0}
    return {
        "predicted_s": round(found.predicted_s, 2),
        "eta_s": round(found.eta_s, 2),
        "num_workers": found.num_workers,
    }


def _status(row: BatchRow, of_job: str | None) -> str:
    if of_job is not None:
        return of_job
    return "failed" if row.error is not None else "expired"


def _status_of(record: BatchRecord, counts: Mapping[str, int]) -> str:
    if counts["waiting"] or counts["queued"] or counts["running"]:
        return "in_progress" if record.cancelled_at is None else "cancelling"
    return "completed" if record.cancelled_at is None else "cancelled"
