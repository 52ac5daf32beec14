"""Queues the rows of batches, a few at a time, as long as the gateway runs."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from rushes.errors import LimitReached, QueueFull, RequestError, RushesError, UnknownJob
from rushes.server.asks import ask_of
from rushes.server.auth import LOCAL, Caller, caller_of
from rushes.server.batch_asks import BatchAsk
from rushes.server.batches import BatchDesk
from rushes.server.gateway import Gateway
from rushes.server.problems import ProblemError
from rushes.server.wishes import Wish, wish_of
from rushes.stores.accounts import AccountStore
from rushes.stores.base import JobRecord, JobStore
from rushes.stores.batches import OpenBatch
from rushes.types import FINAL, GenerateRequest, JobOptions

log = logging.getLogger(__name__)

WINDOW = 64
"""Jobs of one batch that are queued or running at once: the queue that everybody's request is compared with
stays short, whatever a batch holds."""

LOOK_S = 1.0
SWEEP_S = 3600.0
KEEP_DAYS = 30.0

Submit = Callable[[GenerateRequest, JobOptions, Caller, Wish], JobRecord]


class BatchRunner:
    """A thread of a gateway. Several gateways may queue the same batch: a row's idempotency key is the
    batch's id and its number, so each makes the same job of it.

    Args:
        submit: queues one job at its caller's expense.
        caller_of: who asked for a batch, with the limits of now. Raises `RequestError` for a key that is not
            good any more: its batches are cancelled then.
        window: None for all rows at once.
        keep_days: how old a batch is at least before the thread forgets it; see `BatchDesk.sweep`.
    """

    def __init__(
        self,
        desk: BatchDesk,
        jobs: JobStore,
        submit: Submit,
        caller_of: Callable[[OpenBatch], Caller],
        *,
        window: int | None = WINDOW,
        keep_days: float = KEEP_DAYS,
    ) -> None:
        self._desk, self._jobs, self._submit, self._caller_of = desk, jobs, submit, caller_of
        self._window, self._keep_days = window, keep_days
        self._asks: dict[str, BatchAsk] = {}
        self._open: dict[str, set[str]] = {}
        self._wakes, self._stops = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="batches", daemon=True)

    def start(self) -> None:
        """Go on with what an earlier process left."""
        self._thread.start()

    def stop(self) -> None:
        """Returns when the row that is being queued is."""
        self._stops.set()
        self._wakes.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def has_died(self) -> bool:
        """Whether the thread was started and is gone."""
        return self._thread.ident is not None and not self._thread.is_alive()

    def wake(self) -> None:
        """There is a new batch."""
        self._wakes.set()

    def step(self) -> int:
        """Queue what may be queued now of every batch; returns how many rows."""
        records = self._desk.batches.unfinished()
        gone = self._asks.keys() - {record.id for record in records}
        for batch_id in gone:
            del self._asks[batch_id], self._open[batch_id]
        return sum(self._step_of(record) for record in records if not self._stops.is_set())

    def cancel_strays(self) -> int:
        """Of batches that were cancelled: jobs of which no row knows, since their gateway died between making
        the job and noting it; a later gateway would have made the same job of that row. Returns how many."""
        num = 0
        for record in self._desk.batches.cut_short():
            try:
                num += self._has_stray(record)
            except (RushesError, ValueError) as error:
                log.warning("batch %s: what is left of it cannot be told: %s", record.id, error)
        return num

    def _has_stray(self, record: OpenBatch) -> bool:
        """Whether there was one, that of the row behind the last: rows are queued in order."""
        number = record.num_rows + 1
        request, options, _ = self._asked(record, number, self._desk.ask(record.id))
        job = self._jobs.earlier(request, options)
        if job is None or job.status in FINAL or job.wants_cancel:
            return False
        self._jobs.cancel(job.id)
        log.warning("job %s of cancelled batch %s was left over: cancelled", job.id, record.id)
        return True

    def _step_of(self, record: OpenBatch) -> int:
        """What goes wrong with one batch must not stop the others."""
        try:
            return self._queue_some(record)
        except (RushesError, ProblemError) as error:
            log.warning("batch %s cannot be queued just now: %s", record.id, error)
        except Exception:
            log.exception("batch %s cannot be queued", record.id)
        return 0

    def _run(self) -> None:
        swept_at = -math.inf
        while not self._stops.is_set():
            try:
                self.step()
                if time.monotonic() >= swept_at + SWEEP_S:
                    swept_at = time.monotonic()
                    self.cancel_strays()
                    self._desk.sweep(self._keep_days)
            except (RushesError, ProblemError) as error:
                log.warning("batches cannot be queued just now: %s", error)
            except Exception:
                log.exception("batches cannot be queued")
            self._wakes.wait(LOOK_S)
            self._wakes.clear()

    def _queue_some(self, record: OpenBatch) -> int:
        try:
            caller = self._caller_of(record)
        except RequestError as error:
            log.warning("batch %s is cancelled: %s", record.id, error)
            self._desk.cancel(record.id, None)
            return 0
        ask, open_ = self._remembered(record)
        num = 0
        for number in range(record.num_rows + 1, record.total + 1):
            if self._stops.is_set() or (self._window is not None and len(open_) >= self._window):
                break
            job_id, reason = None, None
            try:
                job_id = self._job(record, number, ask, caller).id
            except (QueueFull, LimitReached):
                break  # there will be room later
            except RequestError as error:  # it fits no worker, say, or its key is that of another job
                reason = str(error)
            num += 1
            if not self._has_noted(record, number, job_id, reason):
                break
            open_ |= set() if job_id is None else {job_id}
        return num

    def _job(self, record: OpenBatch, number: int, ask: BatchAsk, caller: Caller) -> JobRecord:
        request, options, wish = self._asked(record, number, ask)
        return self._submit(request, options, caller, wish)

    @staticmethod
    def _asked(record: OpenBatch, number: int, ask: BatchAsk) -> tuple[GenerateRequest, JobOptions, Wish]:
        key = f"{record.id}/{number}"
        body = ask.body(number)
        models = (str(body["model"]),)
        request, options = ask_of(
            body, models=models, tenant=record.tenant, idempotency_key=key, is_ours=True
        )
        return request, options, wish_of(body)

    def _has_noted(self, record: OpenBatch, number: int, job_id: str | None, reason: str | None) -> bool:
        """Whether the batch is still wanted. The job of one that is not is cancelled here: whoever cancelled
        the batch may not have seen it."""
        if self._desk.batches.add_row(record.id, number, job_id=job_id, error=reason):
            return True
        if job_id is not None:
            with suppress(UnknownJob):  # which somebody has deleted since
                self._jobs.cancel(job_id)
        return False

    def _remembered(self, record: OpenBatch) -> tuple[BatchAsk, set[str]]:
        """What was asked for, and the batch's jobs that have not ended."""
        if record.id not in self._asks:
            rows = self._desk.batches.rows(record.id)
            self._open[record.id] = {row.job_id for row in rows if row.job_id is not None}
            self._asks[record.id] = self._desk.ask(record.id)
        open_ = self._open[record.id]
        open_ -= {job_id for job_id in open_ if self._has_ended(job_id)}
        return self._asks[record.id], open_

    def _has_ended(self, job_id: str) -> bool:
        try:
            return self._jobs.get(job_id).status in FINAL
        except RequestError:
            return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Batching:
    """Batches of one gateway: what is asked of them, and the thread that queues their rows."""

    desk: BatchDesk
    runner: BatchRunner


def batching_over(gateway: Gateway, accounts: AccountStore, *, keep_days: float = KEEP_DAYS) -> Batching:
    """Of a gateway whose batches lie in this store."""

    def caller(record: OpenBatch) -> Caller:
        if record.key_id == LOCAL.key_id:
            return LOCAL
        return caller_of(accounts.keys.get(record.key_id), now=time.time())

    jobs = gateway.place.jobs
    desk = BatchDesk(accounts.batches, jobs, gateway.admission, lambda: gateway.models)
    runner = BatchRunner(desk, jobs, gateway.create, caller, keep_days=keep_days)
    return Batching(desk=desk, runner=runner)
