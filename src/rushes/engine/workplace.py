"""The folder in which clients and workers of one machine meet: jobs, checkpoints, results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from rushes.engine.announcements import StoreAdmission
from rushes.engine.artefacts import Artefacts
from rushes.engine.client import StoreClient
from rushes.errors import ConfigError, OutputError
from rushes.stores.base import JobRecord, Swept
from rushes.stores.disk import BlobFolder
from rushes.stores.sqlite import SqliteJobStore
from rushes.types import FINAL, Frames

if TYPE_CHECKING:
    from rushes.stages.video_encode import VideoWriter
    from rushes.stages.video_formats import Sink


MOST_JOBS = 100_000
"""Ended jobs that a store keeps."""


class Workplace:
    """`jobs.sqlite` beside the folders `checkpoints/`, `results/` and `workers/`. A context manager.

    Args:
        folder: made where it is missing. Raises `ConfigError` when that fails, `StoreError` when what is
            there cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{folder}: cannot be made ({error.strerror})") from error
        self.jobs = SqliteJobStore(folder / "jobs.sqlite")
        self.checkpoints = BlobFolder(folder / "checkpoints")
        self.results = BlobFolder(folder / "results")
        self.workers = BlobFolder(folder / "workers")
        self.artefacts = Artefacts(self.results)

    def __enter__(self) -> Workplace:
        return self

    def __exit__(self, *_: object) -> None:
        self.jobs.close()

    def client(self) -> StoreClient:
        """For submitting jobs and watching them."""
        return StoreClient(self.jobs, StoreAdmission(self.jobs, self.workers))

    def preview(self, job_id: str) -> bytes | None:
        """The latest look at a job that is being denoised, as webp."""
        return None

    def outlet(self, record: JobRecord) -> Mp4Outlet:
        """Where a worker puts the frames of a job: a new file for every lease."""
        return Mp4Outlet(self.results, record)

    def sweep(self, *, ttl_s: float, max_bytes: int, max_jobs: int = MOST_JOBS) -> int:
        """Forget ended jobs older than `ttl_s`, or more than `max_jobs`, or with results of more than
        `max_bytes`, oldest first, with their files; returns how many jobs. Safe beside other sweeps."""
        num = self._sweep(ttl_s, max_jobs)
        while self.results.total_bytes() > max_bytes and (left := self.jobs.count(statuses=FINAL)):
            num += self._sweep(ttl_s, left - max(1, left // 10))
        return num

    def forget(self, job_id: str) -> None:
        """Take an ended job away with its files. Raises as `JobStore.forget`."""
        self._delete(self.jobs.forget(job_id))

    def _sweep(self, ttl_s: float, max_jobs: int) -> int:
        swept = self.jobs.sweep(ttl_s=ttl_s, max_jobs=max_jobs)
        self._delete(swept)
        return swept.jobs

    def _delete(self, swept: Swept) -> None:
        for name in swept.checkpoints:
            self.checkpoints.delete(name)
        for name in swept.results:
            self.results.delete(name)


def result_name(record: JobRecord) -> str:
    """Of the file that a job's frames go to under its present lease; it grows as `BlobFolder.growing`."""
    return f"{record.id}-{record.token}.mp4"


class Mp4Outlet:
    """Frames to a fragmented mp4 that plays while it grows."""

    def __init__(self, results: BlobFolder, record: JobRecord) -> None:
        self._results, self._name = results, result_name(record)
        self._stack = ExitStack()
        self._writer: VideoWriter | None = None
        self._file: BinaryIO | None = None
        self._size = asdict(record.request.video)

    def write(self, frames: Frames) -> None:
        """See `Outlet`."""
        if self._writer is None:
            self._writer = self._open()
        with self._errors():
            self._writer.write(frames.frames)
            assert self._file is not None
            self._file.flush()  # a fragment that was written can be read

    def finish(self) -> str:
        """See `Outlet`."""
        with self._errors():
            self._stack.close()
        return self._name

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(f"{self._name}: {error.strerror or error}") from error

    def abort(self) -> None:
        """See `Outlet`."""
        with suppress(_Aborted), self._stack:
            raise _Aborted
        self._results.delete(self._name)

    def _open(self) -> VideoWriter:
        from rushes.stages.video_encode import VideoWriter

        path = self._stack.enter_context(self._results.growing(self._name))
        # Buffered, since a bare file may write less than it was given when the disk is full.
        self._file = self._stack.enter_context(path.open("wb"))
        return self._stack.enter_context(VideoWriter(self._sink(self._file), format="mp4", **self._size))

    def _sink(self, file: BinaryIO) -> Sink:
        """Where the encoder's bytes go."""
        return file


class _Aborted(Exception):
    """Ends the contexts of an outlet."""
