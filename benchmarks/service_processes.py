"""Gateways and workers as processes over one store: started, looked at, killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

READY_S = 120.0
LOOK_S = 0.02
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Process:
    """A child with its log.

    Attributes:
        log: where it says what it says.
    """

    popen: subprocess.Popen[bytes]
    log: Path

    @property
    def is_alive(self) -> bool:
        return self.popen.poll() is None

    @property
    def rss_bytes(self) -> int:
        """Of its memory, what is resident now."""
        for line in Path(f"/proc/{self.popen.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return 1024 * int(line.split()[1])
        return 0

    @property
    def cpu_s(self) -> float:
        """CPU seconds so far, of all its threads."""
        fields = Path(f"/proc/{self.popen.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def kill(self) -> None:
        """SIGKILL."""
        self.popen.kill()
        self.popen.wait()

    def stop(self, timeout_s: float = 60.0) -> int:
        """SIGTERM; its exit status."""
        if self.is_alive:
            self.popen.send_signal(signal.SIGTERM)
        try:
            return self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise


class Service:
    """What runs over one folder. A context manager that ends all it has started.

    Args:
        folder: the store; logs lie beside it.
        gateway: more flags of `rushes gateway`.
        worker: the flags of a worker; with `pace`, of `benchmarks.sleeping_worker`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        gateway: Sequence[str] = ("--no-auth",),
        worker: Sequence[str] = (),
        pace: Sequence[str] | None = None,
    ) -> None:
        self.folder = folder
        self.store = folder / "store"
        self._gateway, self._worker, self._pace = tuple(gateway), tuple(worker), pace
        self._started: list[Process] = []

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._started:
            if process.is_alive:
                process.kill()

    def start_gateway(self, port: int = 0) -> tuple[Process, str]:
        """One more gateway, and its URL when it listens."""
        command = ["-m", "rushes", "gateway", "--store", str(self.store), "--port", str(port), *self._gateway]
        process = self._start("gateway", command)
        address = process.log.with_suffix(".out")
        wait_for(lambda: address.read_text().endswith("\n"), process)
        return process, address.read_text().strip()

    def start_worker(self) -> Process:
        """One more worker, when it has announced itself."""
        module = ["rushes", "worker"] if self._pace is None else ["benchmarks.sleeping_worker", *self._pace]
        process = self._start("worker", ["-m", *module, "--store", str(self.store), *self._worker])
        wait_for(lambda: self._has_announced(process), process)
        return process

    def _has_announced(self, process: Process) -> bool:
        return any((self.store / "workers").glob(f"worker-*-{process.popen.pid}-*.json"))

    def _start(self, name: str, command: Sequence[str]) -> Process:
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / f"{name}-{len(self._started)}.log"
        with log.open("wb") as err, log.with_suffix(".out").open("wb") as out:
            popen = subprocess.Popen([sys.executable, *command], stdout=out, stderr=err)
        process = Process(popen, log)
        self._started.append(process)
        return process


def wait_for(holds: Callable[[], bool], process: Process | None = None, timeout_s: float = READY_S) -> None:
    """Until it holds. Raises `RuntimeError` when the process has ended or the time is over."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        if process is not None and not process.is_alive:
            raise RuntimeError(f"ended with {process.popen.returncode}: {process.log.read_text()[-2000:]}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {timeout_s:g} s" + (f": {process.log}" if process else ""))
        time.sleep(LOOK_S)
