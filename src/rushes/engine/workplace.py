"""The folder in which clients and workers of one machine meet: jobs, checkpoints, results."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rushes.engine.announcements import StoreAdmission
from rushes.engine.artefacts import Artefacts, result_name
from rushes.engine.client import StoreClient
from rushes.engine.job_traces import trace_name
from rushes.engine.latent_files import names_of, owner_of
from rushes.engine.mp4_outlet import Mp4Outlet
from rushes.errors import ConfigError, StoreError, UnknownJob
from rushes.stores.base import JobRecord, Swept
from rushes.stores.bell import Bell
from rushes.stores.bell_folder import FolderBell
from rushes.stores.disk import BlobFolder
from rushes.stores.objects import DiskObjects, ObjectStore
from rushes.stores.sqlite import SqliteJobStore
from rushes.types import FINAL, Preview

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["MOST_JOBS", "Mp4Outlet", "Workplace", "live_name", "result_name"]

log = logging.getLogger(__name__)

MOST_JOBS = 100_000
"""Ended jobs that a store keeps."""

MOST_LATENT_BYTES = 20 * 10**9
"""Of latents that a store keeps."""


LIVE_ENDING = ".live.webp"


def live_name(job_id: str) -> str:
    """Of the picture of a job that is being denoised, in `Workplace.previews`."""
    return job_id + LIVE_ENDING


class Workplace:
    """`jobs.sqlite` and folders: `checkpoints`, `latents`, `results`, `previews`, `traces`, `workers`,
    `bells`, and `deletions`: names of videos that another store still has to forget. A context manager.

    Args:
        folder: made where it is missing. Raises `ConfigError` when that fails, `StoreError` when what is
            there cannot be used.
        objects: where results are kept once they are complete; None keeps them in `results/`.
        bell: rung after every write to the jobs; closed with the workplace.

    Attributes:
        bell: how to hear of writes; without one that was given, those of this machine's processes.
        artefacts: what finished jobs left: videos and the pictures that belong to them.
        latents: of clips at some noise levels, for others to go on from; see `rushes.engine.latent_files`.
        previews: by `live_name`, of jobs that are being denoised and asked for previews.
    """

    def __init__(self, folder: Path, *, objects: ObjectStore | None = None, bell: Bell | None = None) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{folder}: cannot be made ({error.strerror})") from error
        self.bell: Bell = bell or FolderBell(folder / "bells")
        self.jobs = SqliteJobStore(folder / "jobs.sqlite", on_write=self.bell.ring)
        self.checkpoints = BlobFolder(folder / "checkpoints")
        self.results = BlobFolder(folder / "results")
        self.previews = BlobFolder(folder / "previews")
        self.traces = BlobFolder(folder / "traces")
        self.latents = BlobFolder(folder / "latents")
        self.workers = BlobFolder(folder / "workers")
        self._deletions = BlobFolder(folder / "deletions")
        self._objects = objects
        local = DiskObjects(self.results)
        self.artefacts = Artefacts((local,) if objects is None else (local, objects))

    @classmethod
    def of_services(
        cls, folder: Path, *, s3: str | None = None, public_url: str | None = None, redis: str | None = None
    ) -> Workplace:
        """A workplace whose results are kept in a bucket and whose news goes through Redis, where these are
        given.

        Raises:
            ConfigError: a URL is none, or a package is missing. Servers that are away are no error.
        """
        objects = bell = None
        if s3 is not None:
            from rushes.stores.objects_s3 import S3Objects

            objects = S3Objects(s3, public_url=public_url)
        if redis is not None:
            from rushes.stores.bell_redis import RedisBell

            bell = RedisBell(redis)
        return cls(folder, objects=objects, bell=bell)

    def __enter__(self) -> Workplace:
        return self

    def __exit__(self, *_: object) -> None:
        self.jobs.close()
        self.bell.close()

    def client(self) -> StoreClient:
        """For submitting jobs and watching them."""
        return StoreClient(self.jobs, StoreAdmission(self.jobs, self.workers))

    def outlet(self, record: JobRecord) -> Mp4Outlet:
        """Where a worker puts the frames of a job: a new file for every lease."""
        on_end = partial(self._drop_preview, record.id)
        return Mp4Outlet(self.results, record, remote=self._objects, on_end=on_end)

    def keep_preview(self, job_id: str, preview: Preview) -> None:
        """Put it in place of the job's last one, as `live_name`. Never raises: a job can do without."""
        from rushes.engine.stills import live_preview

        try:
            self.previews.write(live_name(job_id), live_preview(preview))
        except (OSError, StoreError) as error:
            log.warning("job %s: no preview: %s", job_id, error)

    def preview(self, job_id: str) -> bytes | None:
        """The latest look at a job that is being denoised, as WebP; None where there is none."""
        try:
            return self.previews.path(live_name(job_id)).read_bytes()
        except OSError:
            return None

    def first_frames(self, job_id: str, num_frames: int) -> NDArray[np.uint8] | None:
        """Of a finished job's video, as uint8 [num_frames, H, W, 3]; None where they cannot be had."""
        from rushes.engine.first_frames import first_frames

        try:
            record = self.jobs.get(job_id)
        except (UnknownJob, StoreError):
            return None
        return first_frames(self.artefacts, record, num_frames)

    def sweep(
        self,
        *,
        ttl_s: float,
        max_bytes: int,
        max_jobs: int = MOST_JOBS,
        max_latent_bytes: int = MOST_LATENT_BYTES,
    ) -> int:
        """Forget ended jobs older than `ttl_s`, or more than `max_jobs`, or with results of more than
        `max_bytes` on this disk, oldest first, with their files; returns how many jobs. Safe beside other
        sweeps. Beyond `max_latent_bytes` the oldest latents go, whose jobs stay. May wait for another store
        for half a minute."""
        self._delete_what_is_due()
        self.latents.shrink(max_latent_bytes)
        num = self._sweep(ttl_s, max_jobs)
        while self.results.total_bytes() > max_bytes and (left := self.jobs.count(statuses=FINAL)):
            num += self._sweep(ttl_s, left - max(1, left // 10))
        return num

    def remove_orphans(self) -> int:
        """Delete what dead workers and interrupted deletions left of videos and previews; how many files.
        Looks at every file: once an hour is enough. Safe beside workers and other sweeps."""
        stale = [name for name in self.previews.names() if not self._is_running(name.split(".")[0])]
        for name in stale:
            self.previews.delete(name)
        return len(stale) + self.artefacts.remove_orphans(self.jobs)

    def forget(self, job_id: str) -> None:
        """Take an ended job away with its files. Those in a store that is away go when it is back (see
        `sweep`). Raises as `JobStore.forget`."""
        latents = self._latents_of(job_id)
        self._delete(self.jobs.forget(job_id), latents)
        self.previews.delete(live_name(job_id))

    def _sweep(self, ttl_s: float, max_jobs: int) -> int:
        swept = self.jobs.sweep(ttl_s=ttl_s, max_jobs=max_jobs)
        gone = set(swept.job_ids)
        self._delete(swept, [name for name in self.latents.names() if owner_of(name) in gone] if gone else ())
        return swept.jobs

    def _latents_of(self, job_id: str) -> Sequence[str]:
        """Names under which a job may have left latents: by its request and by that which came, beyond whose
        steps no worker goes. The folder, which holds very many, is looked through only where these cannot be
        read."""
        try:
            requests = self.jobs.asked(job_id), self.jobs.get(job_id).request
            return names_of(job_id, max(one.sampling.num_inference_steps for one in requests))
        except StoreError:
            return [name for name in self.latents.names() if owner_of(name) == job_id]

    def _delete(self, swept: Swept, latents: Iterable[str]) -> None:
        for name in swept.checkpoints:
            self.checkpoints.delete(name)
        for job_id in swept.job_ids:
            self.traces.delete(trace_name(job_id))
        for name in latents:
            self.latents.delete(name)
        try:
            self.artefacts.forget(swept.results)
        except StoreError as error:
            log.warning("to be deleted later: %s", error)
            for name in swept.results:
                self._deletions.write(name, b"")

    def _delete_what_is_due(self) -> None:
        """What could not be deleted when it should have been, by any process."""
        names = self._deletions.names()
        try:
            self.artefacts.forget(names)
        except StoreError as error:
            log.warning("%d videos are still to be deleted: %s", len(names), error)
            return
        for name in names:
            self._deletions.delete(name)

    def _is_running(self, job_id: str) -> bool:
        try:
            return self.jobs.get(job_id).status == "running"
        except UnknownJob:
            return False

    def _drop_preview(self, job_id: str) -> None:
        try:
            self.previews.delete(live_name(job_id))
        except StoreError as error:
            log.warning("job %s: its preview stays: %s", job_id, error)
