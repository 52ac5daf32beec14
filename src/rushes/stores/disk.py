"""Named bytes in a folder: complete under their name or not there at all."""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from rushes.errors import StoreError
from rushes.stores.locked_files import open_locked, remove_if_dead
from rushes.trace import traced

PARTIAL = ".partial"
_TEMPORARY = ".tmp"
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_LOCK_WAIT_S = 1.0


class BlobFolder:
    """A folder of files that many processes write, read and delete at once.

    A file is written beside its name, flushed to the disk, and renamed: a reader finds all of it or nothing,
    also after a power failure, and the last writer of a name wins. What is unfinished is locked while its
    process lives; what dead processes left is removed when a folder is opened.

    Args:
        folder: made when it is missing, with the folders above it.

    Raises:
        StoreError: from every method: the path and the cause (a full disk, no permission, no such file) in
            one line, or a name that is not letters, digits, `.`, `_` and `-`, at most 200, a letter or digit
            first, `.partial` not last.

    Example:
        >>> import tempfile
        >>> blobs = BlobFolder(tempfile.mkdtemp())
        >>> blobs.write("job.3.safetensors", b"latents")
        >>> blobs.read("job.3.safetensors"), blobs.names()
        (b'latents', ('job.3.safetensors',))
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        with _errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._remove_leftovers()

    def path(self, name: str) -> Path:
        """Where the file of this name is, or would be."""
        if not _SAFE_NAME.fullmatch(name) or name.endswith(PARTIAL):
            raise StoreError(
                f"{self._folder}: {name[:80]!r} is not a safe name: letters, digits, '.', '_' and '-', "
                f"at most 200, a letter or digit first, {PARTIAL!r} not last"
            )
        return self._folder / name

    def partial_path(self, name: str) -> Path:
        """Where the file of this name grows; see `growing`."""
        return self.path(name).with_name(name + PARTIAL)

    @traced("blob_write")
    def write(self, name: str, data: bytes | bytearray | memoryview) -> None:
        """Put `data` under this name, in place of what was there; on an error the old file stays."""
        path = self.path(name)
        temporary = path.with_name(f".{name}.{secrets.token_hex(8)}{_TEMPORARY}")
        with _errors(path), _locked(temporary) as file, _removed_on_error(temporary):
            with open(file, "wb", closefd=False) as stream:
                stream.write(data)
            _publish(file, temporary, path)

    @contextmanager
    def growing(self, name: str, *, final_name: Callable[[], str] | None = None) -> Iterator[Path]:
        """An empty file that others may read while the block writes it, and that gets its name at the end,
        or the `final_name`, asked for then.

        The block opens the path (`partial_path(name)`), writes and closes it. It is flushed to the disk
        before it is renamed, so whoever follows it sees every byte of the final file. When the block fails,
        it is removed, and the error goes on as it is.

        Raises:
            StoreError: another process or thread is writing this name; or as in the class.
        """
        path, partial = self.path(name), self.partial_path(name)
        with ExitStack() as stack:
            with _errors(path):
                file = stack.enter_context(_locked(partial))
                os.ftruncate(file, 0)
            stack.enter_context(_removed_on_error(partial))
            yield partial
            final = path if final_name is None else self.path(final_name())
            with _errors(final):
                _publish(file, partial, final)

    def read(self, name: str) -> bytes:
        path = self.path(name)
        with _errors(path):
            return path.read_bytes()

    def delete(self, name: str) -> None:
        """Remove the file; one that is not there is fine. After a power failure it may be back."""
        path = self.path(name)
        with _errors(path):
            path.unlink(missing_ok=True)

    def names(self) -> tuple[str, ...]:
        """Names of the complete files, sorted."""
        return tuple(sorted(entry.name for entry in self._files() if _is_complete(entry.name)))

    def shrink(self, max_bytes: int) -> int:
        """Delete complete files, the oldest first, until no more than `max_bytes` are left; how many. A file
        that was written again is new."""
        kept: list[tuple[float, str, int]] = []
        for entry in self._files():
            with suppress(FileNotFoundError):
                stat = entry.stat(follow_symlinks=False)
                kept.append((stat.st_mtime, entry.name, stat.st_size))
        num, left = 0, sum(size for _, _, size in kept)
        for _, name, size in sorted(kept):
            if left <= max_bytes:
                break
            if _is_complete(name):
                self.delete(name)
                num, left = num + 1, left - size
        return num

    def total_bytes(self) -> int:
        """Bytes of all files, those that are being written too."""
        return sum(size for entry in self._files() if (size := _size(entry)) is not None)

    def _files(self) -> list[os.DirEntry[str]]:
        with _errors(self._folder), os.scandir(self._folder) as entries:
            return [entry for entry in entries if entry.is_file(follow_symlinks=False)]

    def _remove_leftovers(self) -> None:
        for entry in self._files():
            if _is_unfinished(entry.name):
                # They cost space, nothing else: a folder that may only be read is used as it is.
                with suppress(OSError):
                    remove_if_dead(Path(entry.path))


def _is_complete(name: str) -> bool:
    return _SAFE_NAME.fullmatch(name) is not None and not name.endswith(PARTIAL)


def _is_unfinished(name: str) -> bool:
    return name.endswith(PARTIAL) or (name.startswith(".") and name.endswith(_TEMPORARY))


def _size(entry: os.DirEntry[str]) -> int | None:
    """None when the file was deleted or renamed meanwhile."""
    try:
        return entry.stat(follow_symlinks=False).st_size
    except FileNotFoundError:
        return None


def _publish(file: int, partial: Path, path: Path) -> None:
    """Give an open file its final name, content first: after a power failure the name never stands for less.
    Flushed is what anybody has written to it."""
    os.fsync(file)
    os.replace(partial, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """The file at `path`, made when it is missing, with a lock that ends with the block or the process."""
    deadline = time.monotonic() + _LOCK_WAIT_S
    while (file := open_locked(path, os.O_RDWR | os.O_CREAT)) is None:
        # Another process may be about to remove what a dead one left here.
        if time.monotonic() > deadline:
            raise StoreError(f"{path}: another process or thread is writing it")
        time.sleep(0.01)
    try:
        yield file
    finally:
        os.close(file)


@contextmanager
def _removed_on_error(path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    """The border at which errors of files become ours."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}") from error
