"""What threads have freed goes back to the system."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rushes.engine.host_heap import give_back

BLOCK = 100_000  # below glibc's threshold for maps of their own


def resident_bytes() -> int:
    return 4096 * int(Path("/proc/self/statm").read_text().split()[1])


pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the heap of glibc")

IN_ARENAS = """
import ctypes, sys, threading
from rushes.engine.host_heap import limit_arenas
if sys.argv[1] == "limited":
    assert limit_arenas()
meet, libc = threading.Barrier(12), ctypes.CDLL(None)
def work():
    kept = [bytes(1000) for _ in range(100)]
    meet.wait()
    meet.wait()
threads = [threading.Thread(target=work) for _ in range(11)]
for thread in threads:
    thread.start()
meet.wait()
libc.malloc_stats()
meet.wait()
"""


def num_arenas(how: str) -> int:
    """Of a process with a dozen threads, as glibc tells."""
    told = subprocess.run([sys.executable, "-c", IN_ARENAS, how], capture_output=True, text=True, check=True)
    return told.stderr.count("Arena ")


def test_threads_share_arenas():
    assert num_arenas("free") > 2
    assert num_arenas("limited") <= 2


def test_freed_memory_is_returned():
    kept: list[bytes] = []

    def fill() -> None:
        # Every hundredth block stays and keeps the heap from shrinking by itself.
        blocks = [bytes(BLOCK) for _ in range(600)]
        kept.extend(blocks[::100])

    threads = [threading.Thread(target=fill) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    before = resident_bytes()
    give_back()
    assert before - resident_bytes() > 20e6
    assert kept[0] == bytes(BLOCK)
