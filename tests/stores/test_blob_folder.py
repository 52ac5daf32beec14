"""Files in a folder are whole or not there, grow in sight, and leave nothing behind."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from store_parts import child, output_of, output_on_small_disk

from rushes.errors import StoreError
from rushes.stores.disk import BlobFolder

LIVE = """
import sys
from rushes.stores.disk import BlobFolder
blobs = BlobFolder(sys.argv[1])
with blobs.growing(sys.argv[2]) as path, open(path, "wb") as file:
    file.write(b"half")
    file.flush()
    print("growing", flush=True)
    sys.stdin.readline()
    file.write(b" and half")
"""

DIE_WHILE_WRITING = """
import os, signal, sys
from rushes.stores.disk import BlobFolder

os.replace = lambda old, new: os.kill(os.getpid(), signal.SIGKILL)
BlobFolder(sys.argv[1]).write("name", b"new")
"""
"""Killed when everything is written but the name."""

FILL = """
import resource, sys
from rushes.errors import StoreError
from rushes.stores.disk import BlobFolder
blobs = BlobFolder(sys.argv[1])
blobs.write("name", b"old")
if sys.argv[2:]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), -1))
try:
    blobs.write("name", bytes(1_000_000))
except StoreError as error:
    print(error)
try:
    with blobs.growing("clip") as path, open(path, "wb") as file:
        file.write(bytes(1_000_000))
except OSError as error:
    print(error.strerror)
assert blobs.read("name") == b"old"
assert blobs.names() == ("name",)
assert blobs.total_bytes() == 3
"""


@pytest.fixture
def blobs(tmp_path: Path) -> BlobFolder:
    return BlobFolder(tmp_path / "made" / "blobs")


def files(blobs: BlobFolder) -> list[str]:
    return sorted(os.listdir(blobs.path("x").parent))


def test_write_read_delete(blobs: BlobFolder) -> None:
    blobs.write("b.safetensors", b"one")
    blobs.write("a-1_2.mp4", memoryview(b"three"))
    blobs.write("b.safetensors", bytearray(b"two!"))
    assert blobs.read("b.safetensors") == blobs.path("b.safetensors").read_bytes() == b"two!"
    assert blobs.names() == ("a-1_2.mp4", "b.safetensors")
    assert blobs.total_bytes() == 9
    blobs.delete("b.safetensors")
    blobs.delete("b.safetensors")
    assert files(blobs) == ["a-1_2.mp4"]
    with pytest.raises(StoreError, match=r"b\.safetensors: No such file or directory$") as raised:
        blobs.read("b.safetensors")
    assert isinstance(raised.value.__cause__, FileNotFoundError)


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "../x", "a/b", "/etc/passwd", "a\\b", ".hidden", "-x", "a\0", "a\n", "a b", "ä"),
        *("clip.partial", "x" * 201, ".x.tmp"),
    ],
)
def test_unsafe_names_are_refused(blobs: BlobFolder, name: str) -> None:
    def grow() -> None:
        with blobs.growing(name):
            pass

    for use in (blobs.read, blobs.delete, blobs.path, lambda name: blobs.write(name, b"x"), lambda _: grow()):
        with pytest.raises(StoreError, match="is not a safe name: letters, digits"):
            use(name)
    assert files(blobs) == []


def test_a_longest_name(blobs: BlobFolder) -> None:
    blobs.write("x" * 200, b"x")
    with blobs.growing("y" * 200):
        pass
    assert blobs.names() == ("x" * 200, "y" * 200)


def test_a_file_that_grows_can_be_followed(blobs: BlobFolder) -> None:
    blobs.write("clip.mp4", b"old")
    with blobs.growing("clip.mp4") as path:
        assert path == blobs.partial_path("clip.mp4")
        assert path.name == "clip.mp4.partial"
        with open(path, "wb") as file, open(path, "rb") as follower:
            file.write(b"one")
            file.flush()
            assert follower.read() == b"one"
            assert (blobs.names(), blobs.read("clip.mp4"), blobs.total_bytes()) == (("clip.mp4",), b"old", 6)
            file.write(b"two")
            file.flush()
            assert follower.read() == b"two"
    assert blobs.read("clip.mp4") == b"onetwo"
    assert files(blobs) == ["clip.mp4"]


def test_a_block_may_put_another_file_in_place(blobs: BlobFolder, tmp_path: Path) -> None:
    """As writers do that write beside and rename."""
    with blobs.growing("clip.mp4") as path:
        (tmp_path / "other").write_bytes(b"other")
        os.replace(tmp_path / "other", path)
    assert blobs.read("clip.mp4") == b"other"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_block_that_fails_leaves_nothing(blobs: BlobFolder, error: type[BaseException]) -> None:
    def fail() -> None:
        with blobs.growing("clip.mp4") as path:
            path.write_bytes(b"half")
            raise error

    with pytest.raises(error):
        fail()
    assert files(blobs) == []


def test_two_writers_of_one_growing_file(blobs: BlobFolder) -> None:
    def grow() -> None:
        with blobs.growing("clip.mp4"):
            pass

    with blobs.growing("clip.mp4") as path:
        path.write_bytes(b"mine")
        with pytest.raises(StoreError, match=r"clip\.mp4\.partial: another process or thread is writing it"):
            grow()
    assert blobs.read("clip.mp4") == b"mine"


def test_a_live_writer_is_left_alone_and_a_dead_one_cleaned(blobs: BlobFolder) -> None:
    folder = str(blobs.path("x").parent)
    live, dead = child(LIVE, folder, "live"), child(LIVE, folder, "dead")
    for process in (live, dead):
        assert process.stdout is not None
        assert process.stdout.readline() == "growing\n"
    BlobFolder(folder)
    assert files(blobs) == ["dead.partial", "live.partial"]
    dead.kill()
    dead.communicate()
    assert files(blobs) == ["dead.partial", "live.partial"]
    BlobFolder(folder)
    assert files(blobs) == ["live.partial"]
    output_of(live)
    assert blobs.read("live") == b"half and half"


def test_what_a_dead_writer_left_does_not_stop_the_next(blobs: BlobFolder) -> None:
    blobs.partial_path("clip.mp4").write_bytes(b"left over, and long")
    with blobs.growing("clip.mp4") as path:
        assert path.read_bytes() == b""
        path.write_bytes(b"new")
    assert blobs.read("clip.mp4") == b"new"


def test_killed_before_the_name_is_given(blobs: BlobFolder) -> None:
    blobs.write("name", b"old")
    process = child(DIE_WHILE_WRITING, str(blobs.path("x").parent))
    process.communicate(timeout=60)
    assert process.returncode == -9
    assert len(files(blobs)) == 2
    assert blobs.names() == ("name",)
    assert BlobFolder(blobs.path("x").parent).read("name") == b"old"
    assert files(blobs) == ["name"]


def test_a_file_size_limit(tmp_path: Path) -> None:
    lines = output_of(child(FILL, str(tmp_path), "100000")).splitlines()
    assert lines == [f"{tmp_path}/name: File too large", "File too large"]


def test_a_full_disk(tmp_path: Path) -> None:
    lines = output_on_small_disk(str(tmp_path), FILL, str(tmp_path)).splitlines()
    assert lines == [f"{tmp_path}/name: No space left on device", "No space left on device"]


def test_a_folder_that_cannot_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for folder, cause in (("file", "File exists"), ("file/inner", "Not a directory")):
        with pytest.raises(StoreError, match=f"^{tmp_path / folder}: {cause}$"):
            BlobFolder(tmp_path / folder)


def test_writers_openers_and_cleaners_at_once(blobs: BlobFolder) -> None:
    """Opening a folder again and again takes nothing from those who write; a reader sees whole files only."""
    folder = blobs.path("x").parent
    errors: list[BaseException] = []
    stops = threading.Event()

    def forever(work: object) -> None:
        try:
            while not stops.is_set():
                work()  # type: ignore[operator]
        except BaseException as error:
            errors.append(error)

    def write() -> None:
        blobs.write("same", os.urandom(1) * 20_000)

    def grow() -> None:
        with blobs.growing("grown") as path:
            path.write_bytes(b"x")

    def read() -> None:
        with suppress(StoreError):
            data = blobs.read("same")
            assert len(data) == 20_000
            assert len(set(data)) == 1

    works = (write, write, grow, lambda: BlobFolder(folder), read, blobs.total_bytes)
    threads = [threading.Thread(target=forever, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    stops.wait(0.4)
    stops.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert files(blobs) == ["grown", "same"]
