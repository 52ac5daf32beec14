"""Ctrl-C at every stage: status 130, one line, no file."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import RUSHES

TIMEOUT_S = 60
# Long enough in each stage that the signal lands in it: 1000 steps, or 200 latent frames to decode.
LONG_DENOISE = ("--num-frames", "5", "--num-inference-steps", "1000")
LONG_DECODE = ("--num-frames", "801", "--num-inference-steps", "1", "--guidance-high", "1")
MP4_HEADER_BYTES = 2000


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def start(
    checkpoint: Path, folder: Path, *flags: str, stderr: int = subprocess.PIPE
) -> subprocess.Popen[str]:
    command = [*RUSHES, "generate", "a dog", "-o", "dog.mp4", "--model", str(checkpoint), "--preview"]
    size = ("--width", "64", "--height", "64")
    return subprocess.Popen(
        [*command, *size, *flags],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=stderr,
        # A shell's background job ignores Ctrl-C and hands that on to whatever the tests start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def read_to_end(terminal: int) -> bytes:
    """What is still written to a terminal until its last writer is gone, which Linux reports as an error."""
    shown = b""
    with contextlib.suppress(OSError):
        while chunk := os.read(terminal, 1024):
            shown += chunk
    return shown


def has_preview(folder: Path) -> bool:
    return (folder / "dog.preview.webp").exists()


def has_frames(folder: Path) -> bool:
    partial = folder / "dog.partial.mp4"
    return partial.exists() and partial.stat().st_size > MP4_HEADER_BYTES


@pytest.mark.parametrize(("flags", "reached"), [(LONG_DENOISE, has_preview), (LONG_DECODE, has_frames)])
def test_while_denoising_and_while_decoding(
    one_expert: Path, tmp_path: Path, flags: tuple[str, ...], reached: Callable[[Path], bool]
) -> None:
    process = start(one_expert, tmp_path, *flags)
    wait_for(lambda: reached(tmp_path), process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, out) == (130, "")
    *notes, last = err.splitlines()
    assert last == "rushes: interrupted"
    assert all(line.startswith("rushes: note: ") for line in notes)
    assert list(tmp_path.iterdir()) == []


def test_while_loading_at_a_terminal(one_expert: Path, tmp_path: Path) -> None:
    """The bar says when loading has begun; the line comes after it on the same terminal."""
    terminal, stderr = pty.openpty()
    process = start(one_expert, tmp_path, *LONG_DENOISE, stderr=stderr)
    os.close(stderr)
    shown = b""
    while b"load" not in shown:
        shown += os.read(terminal, 1024)
    process.send_signal(signal.SIGINT)
    shown += read_to_end(terminal)
    process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130
    assert shown.rstrip().endswith(b"rushes: interrupted")
    assert b"Traceback" not in shown
    assert list(tmp_path.iterdir()) == []
    os.close(terminal)
