"""One clip of a service: watched, waited for, saved."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

from rushes.client.answers import end_of
from rushes.client.connection import Connection, Lost, Pauses
from rushes.errors import OutputError, ServiceError
from rushes.types import FINAL, JobEvent

CHUNK = 1 << 16


class Clip:
    """A handle; made by `Client`.

    Attributes:
        video: the video object as it was told last, see docs/service.md.
    """

    def __init__(self, connection: Connection, video: Mapping[str, Any]) -> None:
        self._connection = connection
        self.video: Mapping[str, Any] = video

    def __repr__(self) -> str:
        return f"Clip({self.id!r}, status={self.status!r})"

    @property
    def id(self) -> str:
        """The job's."""
        return str(self.video["id"])

    @property
    def status(self) -> str:
        """`queued`, `in_progress`, `completed` or `failed`, as it was told last."""
        return str(self.video["status"])

    def refresh(self) -> Clip:
        """Ask how it stands now."""
        self.video = self._connection.json("GET", self._path)
        return self

    def cancel(self) -> Clip:
        """End it at its next step."""
        self.video = self._connection.json("POST", f"{self._path}/cancel")
        return self

    def history(self) -> Sequence[Mapping[str, Any]]:
        """The clip and those that it is an edit of, itself first."""
        return list(self._connection.json("GET", f"{self._path}/history")["data"])

    def trace(self) -> Mapping[str, Any]:
        """Where its time went, as `rushes trace --json` prints it."""
        found: Mapping[str, Any] = self._connection.json("GET", f"{self._path}/trace")
        return found

    def delete(self) -> None:
        """Take it away, with everything made of it."""
        self._connection.json("DELETE", self._path)

    def events(self, *, after: int = 0) -> Iterator[JobEvent]:
        """What happens to it, as it happens, up to its end; none is left out, however often the connection
        breaks. An event without a number (0), `position`, tells its place in the queue.

        Raises:
            RushesError: the service's own error; `ServiceError` when it stays away.
        """
        pauses = Pauses()
        while True:
            headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
            try:
                with self._connection.opened("GET", f"{self._path}/events", headers=headers) as response:
                    for event in _events(response.iter_lines()):
                        pauses.reset()
                        after = event.number or after
                        yield event
                        if event.kind in FINAL:
                            return
                raise Lost(f"the events of {self.id} ended before their job did")
            except Lost as lost:
                pauses.wait(lost)

    def wait(self) -> Clip:
        """Return it when it is completed.

        Raises:
            JobCancelled: it was cancelled.
            EngineError: it failed; the subclass says how.
            ServiceError: the service stays away.
        """
        for _ in self.events():
            pass
        error = end_of(self.refresh().video)
        if error is not None:
            raise error
        return self

    def save(self, path: str | Path, *, variant: str = "video") -> Path:
        """Wait for its end and write it to a file: the clip, or its `thumbnail`, `spritesheet` or `preview`.
        Under its name the file is whole, or not there. Raises as `wait`, and `OutputError`."""
        self.wait()
        path = Path(path)
        pauses = Pauses()
        while True:
            try:
                with _written(path) as file:
                    content = f"{self._path}/content"
                    with self._connection.opened("GET", content, params={"variant": variant}) as response:
                        for data in response.iter_bytes(CHUNK):
                            _write(file, data, path)
                return path
            except Lost as lost:
                pauses.wait(lost)

    def stream(self, to: str | Path | BinaryIO) -> None:
        """Write it while it is made, fragment by fragment, to a file that plays meanwhile or to anything with
        `write`. Returns at its end. Raises as `wait`, and `OutputError`."""
        if isinstance(to, (str, Path)):
            try:
                with Path(to).open("wb", buffering=0) as file:
                    self._stream(file, to)
            except OSError as error:
                raise OutputError(f"{to}: {error.strerror}") from error
        else:
            self._stream(to, "the stream")
        self.wait()

    def _stream(self, file: BinaryIO, name: object) -> None:
        num_written, digest = 0, blake2b()
        pauses = Pauses()
        while True:
            try:
                with self._connection.opened("GET", f"{self._path}/stream") as response:
                    left, again = num_written, blake2b()
                    for data in response.iter_bytes():
                        seen, fresh = data[:left], data[left:]
                        left -= len(seen)
                        again.update(seen)
                        if seen and not left and again.digest() != digest.digest():
                            raise ServiceError(f"job {self.id} began anew and makes other bytes than before")
                        if fresh:
                            pauses.reset()
                            _write(file, fresh, name)
                            digest.update(fresh)
                            num_written += len(fresh)
                return
            except Lost as lost:
                pauses.wait(lost)

    @property
    def _path(self) -> str:
        return f"/v1/videos/{self.id}"


def _events(lines: Iterable[str]) -> Iterator[JobEvent]:
    """Of a stream of server-sent events (WHATWG HTML, section 9.2); comments are nothing."""
    kind, data = "", []
    for line in lines:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            kind = value
        elif field == "data":
            data.append(value)
        elif not line and data:
            yield _event(kind, json.loads("\n".join(data)))
            kind, data = "", []


def _event(kind: str, data: dict[str, Any]) -> JobEvent:
    number, at, job_id = data.pop("number"), data.pop("at"), data.pop("job_id")
    return JobEvent(job_id=job_id, number=number or 0, kind=kind, at=at, data=data)


def _write(file: BinaryIO, data: bytes, name: object) -> None:
    try:
        file.write(data)
    except OSError as error:
        raise OutputError(f"{name}: {error.strerror}") from error


@contextmanager
def _written(path: Path) -> Iterator[BinaryIO]:
    """A file that gets its name when it is whole."""
    growing = path.with_name(f".{path.name}.partial")
    try:
        with growing.open("wb") as file:
            yield file
        growing.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror}") from error
    finally:
        growing.unlink(missing_ok=True)
