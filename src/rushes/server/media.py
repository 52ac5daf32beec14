"""A video on its way out: the growing file while it is made, and the finished one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from starlette.datastructures import Headers
from starlette.responses import FileResponse, Response
from starlette.types import Receive, Scope, Send

from rushes.engine.workplace import result_name
from rushes.errors import RushesError, UnknownJob
from rushes.server.gateway import Gateway
from rushes.server.problems import Problem, ProblemError, not_found
from rushes.server.ranges import ranges_of
from rushes.server.reuse import maker_of
from rushes.stores.base import JobRecord
from rushes.types import FINAL

T = TypeVar("T")

CHUNK = 1 << 20
QUICK = 1 << 17
"""Bytes that are read and digested in a fifth of a millisecond."""

LOOK_S = 0.25
"""Between two looks at a growing file of whose job no news comes."""


class StreamBroken(RushesError):
    """The job began anew and makes other bytes than those that were sent: the client must begin again."""


class Follower:
    """Bytes of one job's video in order, whichever life of the job writes them.

    A worker's death moves a job to a new file; what was sent must be its beginning, which a running digest
    proves. With jobs that run alone it always is.

    A fragment that was just written is read on the loop, more than `QUICK` bytes on a thread.
    """

    def __init__(self, gateway: Gateway, job_id: str) -> None:
        self._gateway, self._job_id = gateway, job_id
        self._sent, self._digest = 0, blake2b(digest_size=16)
        self._file: BinaryIO | None = None
        self._name: str | None = None
        self._at_work: asyncio.Future[Any] | None = None

    async def chunks(self) -> AsyncGenerator[bytes]:
        """Until the video is whole, or its job has ended otherwise. Raises `StreamBroken`."""
        try:
            with self._gateway.feed.watching(self._job_id) as watcher:
                while True:
                    record = self._gateway.place.jobs.get(self._job_id)
                    is_there = await self._is_there(self._maker(record))
                    while is_there and (data := await self._next()):
                        yield data
                    if record.status in FINAL:
                        if not is_there and (rest := await asyncio.to_thread(self._rest_elsewhere, record)):
                            yield rest
                        return
                    with suppress(TimeoutError):
                        async with asyncio.timeout(LOOK_S):
                            await watcher.next()
        finally:
            self._leave()

    async def _is_there(self, record: JobRecord) -> bool:
        if self._sent > QUICK and result_name(record) != self._name:
            return await self._off_loop(lambda: self._reopen(record))
        return self._reopen(record)

    async def _next(self) -> bytes:
        assert self._file is not None
        if os.fstat(self._file.fileno()).st_size - self._sent > QUICK:
            return await self._off_loop(self._read)
        return self._read()

    async def _off_loop(self, work: Callable[[], T]) -> T:
        """On a thread, which goes on to its end when the reader leaves meanwhile."""
        self._at_work = at_work = asyncio.ensure_future(asyncio.to_thread(work))
        return await asyncio.shield(at_work)

    def _leave(self) -> None:
        """Close the file, once no thread is reading it: else the loop would wait for that."""
        if self._at_work is None or self._at_work.done():
            self._close()
        else:
            self._at_work.add_done_callback(self._close)

    def _close(self, at_work: asyncio.Future[Any] | None = None) -> None:
        if at_work is not None and not at_work.cancelled():
            at_work.exception()  # nobody is left to hear it
        if self._file is not None:
            self._file.close()

    def _maker(self, record: JobRecord) -> JobRecord:
        """Whose file to read: a twin's video is its original's."""
        with suppress(UnknownJob):
            return self._gateway.place.jobs.get(maker_of(record))
        return record

    def _reopen(self, record: JobRecord) -> bool:
        """Whether there is a file to read, with everything that was sent before."""
        name = result_name(record)
        if self._file is not None and name == self._name:
            return True
        file = self._open(record, name)
        if file is None:
            return False
        if os.fstat(file.fileno()).st_size < self._sent:
            file.close()
            if record.status == "completed":
                raise StreamBroken("the video came out shorter than what was sent of it")
            return False
        self._check(file)
        if self._file is not None:
            self._file.close()
        self._file, self._name = file, name
        return True

    def _open(self, record: JobRecord, name: str) -> BinaryIO | None:
        places = [self._gateway.place.results.partial_path(name)]
        if record.result is not None:
            places.insert(0, self._gateway.place.results.path(record.result))
        for path in places:
            try:
                return path.open("rb")
            except FileNotFoundError:
                continue
        return None

    def _rest_elsewhere(self, record: JobRecord) -> bytes:
        """Of a finished video that no disk of this machine has: what was not sent of it."""
        artefacts = self._gateway.place.artefacts
        found = artefacts.find(record)
        if found is None:
            return b""
        data = artefacts.read(found)
        if blake2b(data[: self._sent], digest_size=16).digest() != self._digest.digest():
            raise StreamBroken("the video came out with other bytes than were sent")
        return data[self._sent :]

    def _check(self, file: BinaryIO) -> None:
        digest, left = blake2b(digest_size=16), self._sent
        while left and (data := file.read(min(CHUNK, left))):
            digest.update(data)
            left -= len(data)
        if digest.digest() != self._digest.digest():
            file.close()
            raise StreamBroken("the job began anew and makes other bytes than were sent")

    def _read(self) -> bytes:
        assert self._file is not None
        data = self._file.read(CHUNK)
        self._sent += len(data)
        self._digest.update(data)
        return data


class ContentResponse(FileResponse):
    """A file that never changes under its name: ranges, HEAD, and chunks of a megabyte. Raises `ProblemError`
    before anything is sent."""

    chunk_size = CHUNK

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        try:
            self.stat_result = os.stat(self.path)
        except FileNotFoundError:
            raise ProblemError(not_found("such file any more")) from None
        self.set_stat_headers(self.stat_result)
        asked = Headers(scope=scope).get("range")
        if asked is None and scope["method"] == "GET" and self.stat_result.st_size <= QUICK:
            await self._send_at_once(send)
            return
        if asked is not None:
            rest = [(name, value) for name, value in scope["headers"] if name != b"range"]
            scope = {**scope, "headers": [*rest, *self._range_header(asked, self.stat_result.st_size)]}
        await super().__call__(scope, receive, send)

    async def _send_at_once(self, send: Send) -> None:
        """A small file is read on the loop: it would go through four threads otherwise."""
        try:
            data = Path(self.path).read_bytes()
        except FileNotFoundError:
            raise ProblemError(not_found("such file any more")) from None
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": data})

    def _range_header(self, asked: str, size: int) -> list[tuple[bytes, bytes]]:
        """What can be given of what is asked for."""
        ranges = ranges_of(asked, size)
        if ranges is None:
            return []
        if not ranges:
            problem = Problem(
                status=416,
                code="range_not_satisfiable",
                message=f"{asked[:80]!r} lies behind the end: the file has {size} bytes",
                more_headers={"Content-Range": f"bytes */{size}"},
            )
            raise ProblemError(problem)
        given = ",".join(f"{first}-{last}" for first, last in ranges)
        return [(b"range", f"bytes={given}".encode())]


def not_modified(headers: Mapping[str, str]) -> Response:
    """Answer to a client that has the file."""
    return Response(status_code=304, headers=dict(headers))


def content_headers(etag: str, filename: str | None = None) -> dict[str, str]:
    """Of a file under its tenant's key: it may be kept for ever, by the client only."""
    headers = {"ETag": f'"{etag}"', "Cache-Control": "private, max-age=31536000, immutable"}
    if filename is not None:
        headers["Content-Disposition"] = f'inline; filename="{filename}"'
    return headers


def file_response(path: Path, media_type: str, etag: str, filename: str) -> ContentResponse:
    """The finished file."""
    return ContentResponse(path, media_type=media_type, headers=content_headers(etag, filename))
