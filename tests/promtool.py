"""Debian's promtool, as the judge of metrics, rules and expressions."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


def check_metrics(exposition: bytes) -> None:
    """Raises for what promtool finds wrong or unusual with metrics in Prometheus' text format."""
    done = subprocess.run(["promtool", "check", "metrics"], input=exposition, capture_output=True, timeout=30)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()


def check_rules(file: Path) -> str:
    """Raises for rules that promtool cannot read; returns what it says."""
    done = subprocess.run(
        ["promtool", "check", "rules", str(file)], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
