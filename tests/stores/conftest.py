"""The same tests for a job store in memory and in a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from store_parts import Bench


@pytest.fixture(params=["memory", "file"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(":memory:" if request.param == "memory" else str(tmp_path / "jobs.db"))
    yield bench
    bench.store.close()
