"""A real `rushes serve` with the embedded model on free ports, for tests that call it from outside."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SMALL = {"width": 64, "height": 64, "num_frames": 5, "num_inference_steps": 2}
"""Fields of a clip that the toy makes in about a second."""

START_S = 120.0


@dataclass(slots=True, kw_only=True)
class Running:
    """A service that is up, and what it told."""

    url: str
    process: subprocess.Popen[str]
    store: Path
    lines: list[str] = field(default_factory=list)

    @property
    def grpc(self) -> str:
        """Its address of gRPC, as it printed it."""
        return self.find(r"gRPC at (\S+)")

    def find(self, pattern: str) -> str:
        """The first group of a line that comes, waited for."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            for line in tuple(self.lines):
                if found := re.search(pattern, line):
                    return found[1]
            assert self.process.poll() is None, self.lines
            time.sleep(0.02)
        raise AssertionError(f"{pattern} is not in {self.lines}")


@contextlib.contextmanager
def serving(store: Path, *flags: str) -> Iterator[Running]:
    """Starts it, waits for its worker, and ends both."""
    command = [sys.executable, "-m", "rushes", "serve", "--port", "0", "--grpc-port", "0"]
    process = subprocess.Popen(
        [*command, "--store", str(store), *flags], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    running = Running(url="", process=process, store=store)
    reader = threading.Thread(target=lambda: running.lines.extend(process.stderr or ()))
    reader.start()
    try:
        running.url = process.stdout.readline().strip()
        assert running.url, running.lines
        running.find(r"(runs toy)")
        yield running
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        finally:
            process.kill()
            process.wait()
            reader.join()
            process.stdout.close()
            process.stderr.close()
