"""The files that a job leaves, by name, and where they lie. No torch here.

A video is `{job}-{token}.{digest}.mp4`, the digest being of its bytes: whatever has that name is that video,
for ever. Beside it lie a poster, a small animated preview and a sheet of frames, under the same stem.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal, get_args

from rushes.errors import StoreError, UnknownJob, UnknownName
from rushes.stores.base import JobRecord, JobStore
from rushes.stores.objects import ObjectStore
from rushes.types import FINAL

log = logging.getLogger(__name__)

Variant = Literal["video", "thumbnail", "spritesheet", "preview"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)

VIDEO_ENDING, VIDEO_TYPE, IMAGE_TYPE = ".mp4", "video/mp4", "image/webp"
DERIVED: Mapping[Variant, str] = MappingProxyType(
    {"thumbnail": ".poster.webp", "spritesheet": ".sheet.webp", "preview": ".preview.webp"}
)
"""What the name of a derived file ends with in place of the video's ending."""

DIGEST_DIGITS = 16
_OF_JOB = re.compile(r"(?P<job>[0-9a-f]{32})-(?P<token>[0-9]+)\.")


def result_name(record: JobRecord) -> str:
    """Of the file that a job's frames go to under its present lease; it grows as `BlobFolder.growing`."""
    return f"{record.id}-{record.token}{VIDEO_ENDING}"


def final_name(growing: str, digest: str) -> str:
    """Of the video that grew under the name `growing`.

    Args:
        digest: hexadecimal, of all its bytes.

    Example:
        >>> final_name("0f3a-1.mp4", 8 * "01ab")
        '0f3a-1.01ab01ab01ab01ab.mp4'
    """
    return f"{growing.removesuffix(VIDEO_ENDING)}.{digest[:DIGEST_DIGITS]}{VIDEO_ENDING}"


def name_of(video: str, variant: Variant) -> str:
    """Of what belongs to a video.

    Example:
        >>> name_of("0f3a-1.01ab01ab01ab01ab.mp4", "thumbnail")
        '0f3a-1.01ab01ab01ab01ab.poster.webp'
    """
    return video if variant == "video" else video.removesuffix(VIDEO_ENDING) + DERIVED[variant]


def all_names(video: str) -> tuple[str, ...]:
    """The video's and those of everything derived from it."""
    return tuple(name_of(video, variant) for variant in VARIANTS)


def video_of(name: str) -> str:
    """The video to which a file of a job belongs.

    Example:
        >>> video_of("0f3a-1.01ab01ab01ab01ab.poster.webp")
        '0f3a-1.01ab01ab01ab01ab.mp4'
    """
    for ending in DERIVED.values():
        if name.endswith(ending):
            return name.removesuffix(ending) + VIDEO_ENDING
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefact:
    """One file of a finished job: at `path` on this machine, else at `url` for whoever has that.

    Attributes:
        size: in bytes; None where only the server behind the URL knows it.
        etag: without quotes; the same wherever the file lies.
        path: immutable, but it may be deleted, or moved to where `url` leads, before it is opened: then ask
            again.
    """

    name: str
    size: int | None
    media_type: str
    etag: str
    path: Path | None = None
    url: str | None = None


class Artefacts:
    """Finds and forgets the files of ended jobs.

    Args:
        stores: this machine's disk, and another where files are kept in the end, if there is one. A file is
            made in both.
    """

    def __init__(self, stores: Sequence[ObjectStore]) -> None:
        self._stores = tuple(stores)

    def find(self, record: JobRecord, variant: Variant = "video") -> Artefact | None:
        """The file of a completed job, None where there is none: the job is not completed, or its files
        were deleted, or it is from before such files were made. Asks another machine only about a file that
        lies here too: it is about to go, or from before results were kept elsewhere.

        Raises:
            UnknownName: no such variant.
            StoreError: this machine's disk cannot be read.
        """
        if variant not in VARIANTS:
            raise UnknownName("variant", variant, VARIANTS)
        if record.result is None or not record.result.endswith(VIDEO_ENDING):
            return None
        name = name_of(record.result, variant)
        here, there = self._stores[0], self._stores[-1]
        info = here.info(name)
        if there is not here and (here.info(record.result) is None or _has(there, name)):
            return _artefact(name, variant, size=None, url=there.url(name))
        return None if info is None else _artefact(name, variant, size=info.size, path=here.path(name))

    def read(self, artefact: Artefact) -> bytes:
        """All of a file that was found. Raises `StoreError`."""
        store = self._stores[0] if artefact.path is not None else self._stores[-1]
        return store.read(artefact.name)

    def forget(self, videos: Iterable[str]) -> None:
        """Delete videos and all that is derived from them, wherever they lie. What is not there is fine.

        Raises:
            StoreError: a store could not be reached; the others were.
        """
        names = [name for video in videos for name in all_names(video)]
        failures = []
        for store in self._stores if names else ():
            try:
                store.delete(names)
            except StoreError as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def settle(self, video: str) -> None:
        """A job's end is committed: keep its files in the last store only. Never raises."""
        try:
            for store in self._stores[:-1]:
                store.delete(all_names(video))
        except StoreError as error:
            log.warning("%s: its local copy stays: %s", video, error)

    def remove_orphans(self, jobs: JobStore) -> int:
        """Delete whole files that no job will name any more, and copies here of what is kept elsewhere; how
        many. What an unknown job's name stands on is deleted on this machine, and stays elsewhere: there it
        may be another installation's."""
        num = 0
        for store in self._stores:
            names = orphans(store.names(), jobs, forgets_unknown=store is self._stores[0])
            if store is not self._stores[-1]:
                names += self._copies(set(store.names()) - set(names), jobs)
            store.delete(names)
            num += len(names)
        return num

    def send_rest(self, jobs: JobStore) -> int:
        """Copy to the last store what this machine alone has of completed jobs, since it was away when they
        ended; how many files. Raises `StoreError`: it still is."""
        here, there = self._stores[0], self._stores[-1]
        if there is here:
            return 0
        matches = [match for name in sorted(here.names()) if (match := _OF_JOB.match(name))]
        rest = [m.string for m in matches if _is_completed(m, jobs) and there.info(m.string) is None]
        for name in rest:
            media_type = VIDEO_TYPE if name.endswith(VIDEO_ENDING) else IMAGE_TYPE
            there.put(name, here.read(name), media_type)
        return len(rest)

    def _copies(self, names: Iterable[str], jobs: JobStore) -> list[str]:
        """Those of completed jobs that the last store has too: their worker died before it removed them."""
        matches = [match for name in sorted(names) if (match := _OF_JOB.match(name))]
        completed = [match.string for match in matches if _is_completed(match, jobs)]
        return [name for name in completed if _has(self._stores[-1], name)]


def orphans(names: Iterable[str], jobs: JobStore, *, forgets_unknown: bool) -> list[str]:
    """Those of files that stand for an earlier life of their job, or for another end than it had. A job that
    is gone may have left its files to others, which took its result."""
    by_job: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        if match := _OF_JOB.match(name):
            by_job.setdefault(match["job"], []).append((int(match["token"]), name))
    found = []
    for job_id, files in by_job.items():
        try:
            record = jobs.get(job_id)
        except UnknownJob:
            if forgets_unknown:
                found += [name for _, name in files if not jobs.is_named(video_of(name))]
            continue
        kept = () if record.result is None else all_names(record.result)
        is_over = record.status in FINAL
        # A running job's worker may be about to say that it has finished, with the latest token.
        found += [name for token, name in files if name not in kept and (is_over or token < record.token)]
    return found


def _is_completed(match: re.Match[str], jobs: JobStore) -> bool:
    try:
        return jobs.get(match["job"]).status == "completed"
    except UnknownJob:
        return jobs.is_named(video_of(match.string))


def _has(store: ObjectStore, name: str) -> bool:
    try:
        return store.info(name) is not None
    except StoreError:
        return False


def _artefact(
    name: str, variant: Variant, *, size: int | None, path: Path | None = None, url: str | None = None
) -> Artefact:
    media_type = VIDEO_TYPE if variant == "video" else IMAGE_TYPE
    return Artefact(name=name, size=size, media_type=media_type, etag=name, path=path, url=url)
