"""The dependencies: whether `constraints.txt` pins them all, and what is known against what is installed.

python -m tools.audit            # both; exit status 1 for a finding, 3 where nobody could be asked
python -m tools.audit --pins     # the first, which needs no network
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
EXTRAS = ("dev",)
"""That `make` installs beside the runtime packages; an extra may name others."""

INSTALLER = "pip"
"""Comes with the environment."""

FOUND, AWAY = 1, 3


def pins_of(constraints: str) -> dict[str, Version]:
    """The versions that a constraints file pins, by the packages' canonical names."""
    lines = (line.partition("#")[0].strip() for line in constraints.splitlines())
    pairs = (line.split("==") for line in lines if "==" in line)
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def required(project: Mapping[str, Any], extras: Sequence[str] = EXTRAS) -> Iterator[Requirement]:
    """What `pyproject.toml` asks for itself, in this Python on this machine."""
    optional: Mapping[str, list[str]] = project["optional-dependencies"]
    for line in (*project["dependencies"], *(line for extra in extras for line in optional[extra])):
        found = Requirement(line)
        if canonicalize_name(found.name) == canonicalize_name(project["name"]):
            yield from required({**project, "dependencies": []}, tuple(found.extras))
        elif found.marker is None or found.marker.evaluate():
            yield found


def installed_below(requirements: Sequence[Requirement]) -> Iterator[Requirement]:
    """These and what they ask for in turn, as far as it is installed."""
    todo, seen = list(requirements), set()
    while todo:
        requirement = todo.pop()
        yield requirement
        for extra in ("", *requirement.extras):
            key = (canonicalize_name(requirement.name), extra)
            if key not in seen:
                seen.add(key)
                todo += _asked_by(*key)


def _asked_by(name: str, extra: str) -> Iterator[Requirement]:
    try:
        lines = metadata.requires(name) or ()
    except metadata.PackageNotFoundError:
        return
    for line in lines:
        found = Requirement(line)
        if found.marker is None or found.marker.evaluate({"extra": extra}):
            yield found


def unpinned(requirements: Sequence[Requirement], pins: Mapping[str, Version]) -> list[str]:
    """What is wrong with the pins, a line each."""
    found = []
    for each in requirements:
        pin = pins.get(canonicalize_name(each.name))
        if each.name == INSTALLER:
            continue
        if pin is None:
            found.append(f"{each.name}: constraints.txt does not pin it")
        elif not each.specifier.contains(pin, prereleases=True):
            found.append(f"{each.name}: constraints.txt pins {pin}, asked for is {each.specifier}")
    return sorted({*found})


def verdict_of(report: Mapping[str, Any] | None) -> tuple[int, str]:
    """Exit status, and words, for what pip-audit reports in JSON; None where it came to no report."""
    packages = [] if report is None else report["dependencies"]
    audited = [each for each in packages if "skip_reason" not in each]
    if not audited:
        return AWAY, (
            "nothing was audited: the service of known vulnerabilities (pypi.org) is away, or knows none of"
            " the packages; try again from where it can be reached"
        )
    found = [
        f"{each['name']} {each['version']}: {bug['id']}, mended in {', '.join(bug['fix_versions']) or 'none'}"
        for each in audited
        for bug in each.get("vulns", ())
    ]
    skipped = [each["name"] for each in packages if "skip_reason" in each]
    told = [f"{len(audited)} packages audited, {len(found)} known vulnerabilities", *found]
    told += [f"not audited: {', '.join(skipped)}"] if skipped else []
    return (FOUND if found else 0), "\n".join(told)


def ask_pip_audit() -> tuple[Mapping[str, Any] | None, str]:
    """Its report of what is installed here, and the last line of what it said besides."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        flags = ("--local", "--skip-editable", "--progress-spinner", "off", "--format", "json")
        command = [sys.executable, "-m", "pip_audit", *flags, "--output", str(report)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said = re.sub(r"\s+", " ", (done.stderr.strip().splitlines() or [""])[-1])
        return (json.loads(report.read_text()) if report.exists() else None), said


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m tools.audit")
    parser.add_argument("--pins", action="store_true", help="look at constraints.txt only")
    asked = parser.parse_args(arguments)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = pins_of((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    wrong = unpinned(list(installed_below(list(required(project)))), pins)
    if wrong:
        print("\n".join(wrong))
        return FOUND
    if asked.pins:
        return 0
    report, said = ask_pip_audit()
    status, words = verdict_of(report)
    print(words if report is not None or not said else f"{words}\npip-audit said: {said[:300]}")
    return status


if __name__ == "__main__":
    sys.exit(main())
