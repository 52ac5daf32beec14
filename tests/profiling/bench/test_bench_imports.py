"""What a contender imports counts as imports, whenever it does so: load_s is of loading alone."""

from __future__ import annotations

import builtins
import importlib
import sys
import time
from pathlib import Path

import pytest

from rushes.profiling.bench.imports import ImportClock

SLEEPY = "import time\ntime.sleep({seconds})\n"


@pytest.fixture
def sleepy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of modules that take their time; `bench_outer` imports `bench_inner`."""
    (tmp_path / "bench_inner.py").write_text(SLEEPY.format(seconds=0.1))
    (tmp_path / "bench_outer.py").write_text("import bench_inner\n" + SLEEPY.format(seconds=0.1))
    (tmp_path / "bench_broken.py").write_text(SLEEPY.format(seconds=0.1) + "raise ImportError('no')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in ("bench_inner", "bench_outer", "bench_broken"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("is_statement", [True, False])
def test_an_import_counts_once_and_nothing_else_does(sleepy: Path, *, is_statement: bool) -> None:
    before = builtins.__import__, importlib.import_module
    begin = time.monotonic()
    with ImportClock() as imports:
        if is_statement:
            import bench_outer  # noqa: F401
        else:
            importlib.import_module("bench_outer")
        importing_s = time.monotonic() - begin
        time.sleep(0.3)
    assert 0.2 <= imports.seconds <= importing_s
    assert (builtins.__import__, importlib.import_module) == before


def test_a_failed_import_counts_and_leaves_the_clock_running(sleepy: Path) -> None:
    with ImportClock() as imports:
        with pytest.raises(ImportError, match="no"):
            importlib.import_module("bench_broken")
        failed_s = imports.seconds
        importlib.import_module("bench_inner")
    assert failed_s >= 0.1
    assert imports.seconds >= failed_s + 0.1
