"""Snapshots of latents as jobs leave them: whose they are, and the thread that puts them into the index."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rushes.engine.latent_files import finished_name, job_of, num_leading
from rushes.engine.workplace import Workplace
from rushes.errors import RushesError, StoreError, UnknownJob
from rushes.reuse.entries import Entry, Snapshot
from rushes.server.latent_reuse import LatentReuse, is_there
from rushes.server.reuse import reuse_of
from rushes.stages.base import WARM_LATENTS
from rushes.stores.base import JobRecord, JobStore
from rushes.stores.disk import BlobFolder
from rushes.types import JobEvent

log = logging.getLogger(__name__)

SAME_SIGMA = 1e-6
"""Two noise levels that differ by less are one. Steps are of one schedule each, levels of all."""

TIDY_S = 60.0
"""Between two looks for snapshots that nobody told of, and for entries without files."""


def snapshots_of(jobs: JobStore, job_id: str) -> Sequence[Snapshot]:
    """What a job's `snapshot` events tell; a file that was written again counts once. Raises `UnknownJob`."""
    found: dict[str, Snapshot] = {}
    for event in jobs.events(job_id):
        if event.kind == "snapshot":
            snapshot = _snapshot(event.data)
            found[snapshot.name] = snapshot
    return tuple(found.values())


def kept_of(place: Workplace, record: JobRecord, *, is_masked: bool) -> Sequence[Snapshot]:
    """Snapshots from which an edit of a job's clip can go on now. One that is to keep a part needs the clip's
    own, and its finished latents. Raises `UnknownJob`."""
    if not is_masked:
        found = snapshots_on_the_way(place.jobs, record)
    elif finished_of(place, record) is not None:
        found = snapshots_of(place.jobs, record.id)
    else:
        found = ()
    return [one for one in found if is_there(place.latents, one)]


def finished_of(place: Workplace, record: JobRecord) -> str | None:
    """Name of the latents that a job's clip was decoded from; None where they are not there."""
    name = finished_name(record.id)
    return name if place.latents.path(name).exists() else None


def snapshots_on_the_way(jobs: JobStore, record: JobRecord) -> Sequence[Snapshot]:
    """What a job's clip went through: its own snapshots, and above the level at which it took up latents of
    the same meaning, theirs. Raises `UnknownJob`."""
    found = list(snapshots_of(jobs, record.id))
    while (told := reuse_of(record)).get("kind") == "latent":
        source = record.request.source
        if source is None or source.is_renoised:  # above that level its way was its own
            break
        try:
            record = jobs.get(str(told["source"]))
        except UnknownJob:
            break
        found += [one for one in snapshots_of(jobs, record.id) if one.sigma > source.sigma + SAME_SIGMA]
    return tuple(found)


def _snapshot(data: Mapping[str, Any]) -> Snapshot:
    return Snapshot(
        name=str(data["name"]),
        sigma=float(data["sigma"]),
        step=int(data["step"]),
        nbytes=int(data["bytes"]),
    )


def origin_of(jobs: JobStore, record: JobRecord) -> JobRecord:
    """The job that made a record's clip: another one, where it was taken from that. Raises `UnknownJob`."""
    told = reuse_of(record)
    return jobs.get(str(told["job_id"])) if told.get("kind") == "exact" and "job_id" in told else record


class SnapshotIndex:
    """A thread that takes snapshots of completed jobs in. A context manager.

    What it hears from the feed it takes in at once; what nobody told, since every gateway was away, it finds
    by the files' names. Several gateways may take in the same: an entry is there once.

    Args:
        identity: of the model that a pipeline's workers run, None where nobody can tell.
    """

    def __init__(self, place: Workplace, latents: LatentReuse, identity: Callable[[str], str | None]) -> None:
        self._place, self._latents, self._identity = place, latents, identity
        self._heard: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="snapshots", daemon=True)

    def __enter__(self) -> SnapshotIndex:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._heard.put(None)
        self._thread.join()

    def hear(self, event: JobEvent) -> None:
        """Of every event that the feed tells; returns at once."""
        if event.kind == "completed":
            self._heard.put(partial(self.add, event.job_id))
        elif event.kind == "source_missed":
            self._heard.put(partial(self.drop_source, event.job_id))

    def tidy(self) -> None:
        """Take in what nobody told; evict; drop entries whose job is gone. Raises `StoreError`."""
        cache = self._latents.cache
        known = cache.ids()  # before the names: what another gateway takes in meanwhile has files
        job_ids = set(filter(None, map(job_of, self._place.latents.names())))
        for job_id in job_ids - known:
            self.add(job_id)
        for job_id in known - job_ids:
            cache.remove(job_id)
        cache.evict()

    def add(self, job_id: str) -> bool:
        """Whether a job's snapshots are in now. Raises `StoreError`."""
        jobs = self._place.jobs
        try:
            record = jobs.get(job_id)
            snapshots = snapshots_of(jobs, job_id) if _may_be_found(record) else ()
        except UnknownJob:
            return False
        identity = self._identity(record.request.pipeline)
        if not snapshots or identity is None or self._latents.cache.has(job_id):
            return False
        self._latents.add(
            job_id,
            record.request,
            identity=identity,
            tenant=record.options.tenant,
            snapshots=(*snapshots, *self._finished(record)),
            saved_s=steps_s(jobs, record),
        )
        return True

    def _finished(self, record: JobRecord) -> Sequence[Snapshot]:
        """A clip's finished latents, which take room and go with its snapshots; no clip of another prompt is
        sent as low as they are."""
        name = finished_of(self._place, record)
        if name is None:
            return ()
        num_steps = record.request.sampling.num_inference_steps
        try:
            nbytes = self._place.latents.path(name).stat().st_size
        except FileNotFoundError:
            return ()
        return (Snapshot(name=name, sigma=0.0, step=num_steps, nbytes=nbytes),)

    def drop_source(self, job_id: str) -> None:
        """A worker could not use the latents that this job was to go on from: nobody is sent there again.
        With a mask it may have been the mask that was gone. Raises `StoreError`."""
        with suppress(UnknownJob):
            source = self._place.jobs.get(job_id).request.source
            if source is None or source.mask is not None:
                return
            if (source_id := job_of(source.name)) is not None:
                self._latents.cache.remove(source_id)

    def _run(self) -> None:
        due_at = time.monotonic()
        while True:
            if time.monotonic() >= due_at:
                self._quietly(self.tidy)
                due_at = time.monotonic() + TIDY_S
            with suppress(queue.Empty):
                step = self._heard.get(timeout=max(0.0, due_at - time.monotonic()))
                if step is None:
                    return
                self._quietly(step)

    @staticmethod
    def _quietly(step: Callable[[], object]) -> None:
        try:
            step()
        except RushesError as error:
            log.warning("snapshots will be taken in later: %s", error)
        except Exception:  # one damaged event must not end the thread
            log.exception("snapshots could not be taken in")


def steps_s(jobs: JobStore, record: JobRecord) -> float:
    """Device seconds that all steps of a job's clip take when none is saved, by how long its own took."""
    took_s, _ = _stage(jobs, record, "denoise")
    source = None if reuse_of(record).get("kind") == "miss" else record.request.source
    saved = 0 if source is None else source.step
    num_steps = record.request.sampling.num_inference_steps
    whole_s = took_s * num_steps / max(1, num_steps - saved)
    return whole_s or record.actual_s or 0.0


def lead_s(jobs: JobStore, record: JobRecord, mask: NDArray[np.float32]) -> float:
    """Device seconds of decoding a job's clip that an edit with this mask is spared: its frames before the
    first one that changes are there already. [T, h, w] or [h, w]."""
    took_s, units = _stage(jobs, record, "vae_decode")
    return took_s / max(1, units) * max(0, num_leading(mask) - WARM_LATENTS)


def _stage(jobs: JobStore, record: JobRecord, name: str) -> tuple[float, int]:
    """Seconds and units of a stage of a completed job."""
    event = jobs.latest_event(record.id, "completed")
    timings: Any = () if event is None else event.data.get("timings", ())
    found = [
        (float(timing["seconds"]), int(timing["units"])) for timing in timings if timing["stage"] == name
    ]
    return found[0] if found else (0.0, 0)


def deleter(latents: BlobFolder) -> Callable[[Sequence[Entry]], None]:
    """What deletes the files of entries that were evicted."""

    def delete(entries: Sequence[Entry]) -> None:
        names = [snapshot.name for entry in entries for snapshot in entry.snapshots]
        finished = (finished_name(entry.id) for entry in entries)  # of entries that do not count it, too
        for name in dict.fromkeys((*names, *finished)):
            try:
                latents.delete(name)
            except StoreError as error:
                log.warning("%s", error)

    return delete


def _may_be_found(record: JobRecord) -> bool:
    """Whether others may go on from it. An edit has its parent's layout, whatever its own words say: only who
    edits it goes on from its snapshots."""
    return record.status == "completed" and reuse_of(record).get("kind") not in ("off", "edit")
