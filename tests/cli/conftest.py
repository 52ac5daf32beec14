"""A tiny random checkpoint of each kind, made by the command itself, and a way to run commands."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import Command, Result

from rushes.cli.app import run


@pytest.fixture
def rushes(capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs a command line in this process: `rushes("models", "--json")`."""

    def command(*arguments: str | Path) -> Result:
        status = run([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Result(status=status, out=out, err=err)

    return command


def make_tiny(folder: Path, kind: str, layout: str) -> Path:
    assert run(["make-checkpoint", str(folder), "--tiny", kind, "--layout", layout]) == 0
    return folder


@pytest.fixture(scope="session")
def one_expert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny TI2V-5B in diffusers' layout."""
    return make_tiny(tmp_path_factory.mktemp("tiny") / "ti2v-5b", "ti2v-5b", "diffusers")


@pytest.fixture(scope="session")
def two_experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny A14B in the original layout."""
    return make_tiny(tmp_path_factory.mktemp("tiny") / "a14b", "a14b", "wan")
