"""A job's frames to a video that plays while it grows, with the pictures that belong to it. No torch here."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from rushes.engine.artefacts import IMAGE_TYPE, VIDEO_TYPE, Artefacts, final_name, name_of, result_name
from rushes.engine.uploads import Upload
from rushes.errors import StoreError
from rushes.stores.base import JobRecord
from rushes.stores.disk import BlobFolder
from rushes.stores.objects import DiskObjects, ObjectStore, ObjectWriter
from rushes.types import Frames, fields_of

if TYPE_CHECKING:
    from rushes.engine.stills import Stills
    from rushes.stages.video_encode import VideoWriter
    from rushes.stages.video_formats import Sink

log = logging.getLogger(__name__)


class Mp4Outlet:
    """Frames to a fragmented mp4 that plays while it grows on this machine's disk, and is uploaded meanwhile.

    Args:
        results: where it grows, as `result_name(record)`.
        remote: where it is kept afterwards; None keeps it in `results`.
        on_end: called when the job's life with this outlet has ended, one way or the other.
    """

    def __init__(
        self,
        results: BlobFolder,
        record: JobRecord,
        *,
        remote: ObjectStore | None = None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self._results, self._remote, self._on_end = results, remote, on_end
        self._local = DiskObjects(results)
        self._stores: Sequence[ObjectStore] = (self._local,) if remote is None else (self._local, remote)
        self._growing = result_name(record)
        self._size = fields_of(record.request.video)
        self._stack = ExitStack()
        self._writer: VideoWriter | None = None
        self._file: _Digesting | None = None
        self._stills: Stills | None = None
        self._upload: Upload | None = None
        self._result: str | None = None
        self._is_here_only = False

    def write(self, frames: Frames) -> None:
        """See `Outlet`."""
        if self._writer is None:
            self._writer = self._open()
        assert self._stills is not None
        self._writer.write(frames.frames)
        if self._upload is not None:
            self._upload.tell()
        self._stills.add(frames)

    def finish(self) -> str:
        """See `Outlet`. The video is there last: who finds it finds its pictures."""
        assert self._file is not None, "a job has frames"
        assert self._stills is not None
        self._stack.close()
        name = self._result = final_name(self._growing, self._file.digest.hexdigest())
        pictures = {name_of(name, variant): data for variant, data in self._stills.results().items()}
        for picture, data in pictures.items():
            self._local.put(picture, data, IMAGE_TYPE)
        self._send(name, pictures)
        self._file.finish(name)
        return name

    def _send(self, name: str, pictures: Mapping[str, bytes]) -> None:
        """To the other store. One that is away costs no finished video: this machine serves it until
        `Artefacts.send_rest` finds the store again."""
        if self._remote is None or self._upload is None:
            return
        try:
            for picture, data in pictures.items():
                self._remote.put(picture, data, IMAGE_TYPE)
            self._upload.finish(name)
        except StoreError as error:
            log.warning("%s: kept on this machine for now: %s", name, error)
            self._upload.abort()  # it may not have been finished: a picture came first
            self._is_here_only = True

    def committed(self) -> None:
        """See `Outlet`."""
        assert self._result is not None
        if not self._is_here_only:
            Artefacts(self._stores).settle(self._result)
        self._on_end()

    def abort(self) -> None:
        """See `Outlet`."""
        with suppress(_Aborted), self._stack:
            raise _Aborted
        if self._upload is not None:
            self._upload.abort()
        if self._stills is not None:
            self._stills.close()
        if self._file is not None:
            self._file.abort()
        if self._result is not None:
            try:
                Artefacts(self._stores).forget([self._result])
            except StoreError as error:
                log.warning("%s: not removed: %s", self._result, error)
        self._on_end()

    def _open(self) -> VideoWriter:
        from rushes.engine.stills import Stills
        from rushes.stages.video_encode import VideoWriter

        self._stills = Stills(self._size["num_frames"], self._size["fps"])
        self._file = _Digesting(self._local.writer(self._growing, VIDEO_TYPE))
        if self._remote is not None:
            path = self._results.partial_path(self._growing)
            self._upload = Upload(self._remote, self._growing, VIDEO_TYPE, path)
        return self._stack.enter_context(VideoWriter(self._sink(self._file), format="mp4", **self._size))

    def _sink(self, file: Sink) -> Sink:
        """Where the encoder's bytes go."""
        return file


class _Digesting:
    """A writer whose bytes are digested on their way."""

    def __init__(self, writer: ObjectWriter) -> None:
        self._writer = writer
        self.digest = hashlib.sha256()
        self.finish, self.abort = writer.finish, writer.abort

    def write(self, data: bytes, /) -> None:
        self.digest.update(data)
        self._writer.write(data)


class _Aborted(Exception):
    """Ends the contexts of an outlet."""
