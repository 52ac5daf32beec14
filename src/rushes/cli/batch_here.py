"""Batches over a folder of jobs, without a service: this process queues the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rushes.cli.batch import PAGE, key_of_batch
from rushes.engine.announcements import StoreAdmission, workers
from rushes.engine.client import StoreClient
from rushes.engine.workplace import Workplace
from rushes.pipelines.rules import RULES
from rushes.server.auth import LOCAL, Caller
from rushes.server.batch_asks import read_batch
from rushes.server.batch_runner import BatchRunner
from rushes.server.batches import BatchDesk
from rushes.server.wishes import Wish
from rushes.stores.accounts import ACCOUNTS_FILE, AccountStore
from rushes.stores.base import JobRecord
from rushes.types import GenerateRequest, JobOptions

Fetch = Callable[[Workplace, JobRecord, Path], object]


class LocalDesk:
    """See `rushes.cli.batch.Desk`."""

    def __init__(
        self, place: Workplace, desk: BatchDesk, runner: BatchRunner, body: Mapping[str, Any], fetch: Fetch
    ) -> None:
        self._place, self._desk, self._runner, self._fetch = place, desk, runner, fetch
        self._body, self._ask = body, read_batch(body)

    @classmethod
    @contextmanager
    def over(cls, place: Workplace, body: Mapping[str, Any], fetch: Fetch) -> Iterator[LocalDesk]:
        """With the batches of this folder."""
        accounts = AccountStore(place.folder / ACCOUNTS_FILE)
        admission = StoreAdmission(place.jobs, place.workers)
        client = StoreClient(place.jobs, admission)

        def submit(request: GenerateRequest, options: JobOptions, caller: Caller, wish: Wish) -> JobRecord:
            return place.jobs.get(client.submit(request, options))

        def models() -> tuple[str, ...]:
            served = [name for name in RULES.names() if workers(place.workers, name)]
            return (*served, *(name for name in RULES.names() if name not in served))

        desk = BatchDesk(accounts.batches, place.jobs, admission, models)
        runner = BatchRunner(desk, place.jobs, submit, lambda record: LOCAL, window=None)
        try:
            yield cls(place, desk, runner, body, fetch)
        finally:
            accounts.close()

    def estimate(self) -> Mapping[str, Any]:
        """See `Desk`."""
        return self._desk.estimate(self._ask, LOCAL)

    def create(self) -> str:
        """Queues all rows that the queue has room for; `batch` goes on."""
        record = self._desk.create(self._ask, LOCAL, key_of_batch(self._body))
        self._runner.step()
        return record.id

    def batch(self, batch_id: str, after: int = 0) -> Mapping[str, Any]:
        """See `Desk`."""
        self._runner.step()
        record = self._desk.get(batch_id, LOCAL)
        return {**self._desk.batch(record), **self._desk.page(record, after=after, limit=PAGE)}

    def save(self, video_id: str, path: Path) -> None:
        """See `Desk`."""
        self._fetch(self._place, self._place.jobs.get(video_id), path)
