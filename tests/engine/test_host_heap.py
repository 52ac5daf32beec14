"""What threads have freed goes back to the system."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from rushes.engine.host_heap import give_back

BLOCK = 100_000  # below glibc's threshold for maps of their own


def resident_bytes() -> int:
    return 4096 * int(Path("/proc/self/statm").read_text().split()[1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the heap of glibc")
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
