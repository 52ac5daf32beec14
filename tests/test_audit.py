"""Every dependency is pinned, and an audit that could not ask says so."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from packaging.requirements import Requirement
from tools.audit import AWAY, FOUND, ROOT, pins_of, required, unpinned, verdict_of


def audit(*flags: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.audit", *flags]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environ}, capture_output=True, text=True, timeout=120
    )


def test_constraints_pin_every_runtime_and_development_package() -> None:
    done = audit("--pins")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.parametrize(
    ("pins", "says"),
    [
        ("click==8.5.1", []),
        ("Click==8.5.1  # a comment", []),
        ("", ["click: constraints.txt does not pin it"]),
        ("click==8.1.0", ["click: constraints.txt pins 8.1.0, asked for is >=8.2"]),
    ],
)
def test_a_pin_that_is_missing_or_too_old_is_named(pins: str, says: list[str]) -> None:
    assert unpinned([Requirement("click>=8.2"), Requirement("pip")], pins_of(pins)) == says


def test_extras_of_the_project_itself_are_followed() -> None:
    project = {
        "name": "rushes",
        "dependencies": ["click>=8.2", "nobody; python_version < '3'"],
        "optional-dependencies": {"serve": ["fastapi"], "dev": ["rushes[serve]", "pytest>=9"]},
    }
    assert sorted(each.name for each in required(project)) == ["click", "fastapi", "pytest"]


def test_what_was_found_what_was_not_and_what_nobody_looked_at() -> None:
    bug = {"id": "CVE-1", "fix_versions": ["1.1"]}
    sound = {"name": "a", "version": "1.0", "vulns": []}
    ill = {"name": "b", "version": "1.0", "vulns": [bug]}
    skipped = {"name": "c", "skip_reason": "not on PyPI"}
    assert verdict_of({"dependencies": [sound]})[0] == 0
    status, words = verdict_of({"dependencies": [sound, skipped]})
    assert (status, "not audited: c" in words) == (0, True)
    status, words = verdict_of({"dependencies": [sound, ill]})
    assert (status, "b 1.0: CVE-1, mended in 1.1" in words) == (FOUND, True)
    for report in (None, {"dependencies": []}, {"dependencies": [skipped]}):
        assert verdict_of(report)[0] == AWAY


def test_a_service_that_is_away_is_told_without_a_traceback() -> None:
    dead = "http://127.0.0.1:9"
    done = audit(HTTPS_PROXY=dead, https_proxy=dead, NO_PROXY="", no_proxy="")
    assert done.returncode == AWAY, done.stdout + done.stderr
    assert done.stdout.startswith("nothing was audited: the service")
    assert "Traceback" not in done.stdout + done.stderr
