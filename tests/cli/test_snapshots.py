"""What a worker keeps for others to go on from, as flags say it."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from rushes.cli.snapshots import snapshot_options
from rushes.sampling.levels import LEVELS


@click.command()
@snapshot_options
def shown(snapshots: tuple[float, ...], snapshots_gb: float) -> None:
    click.echo((snapshots, snapshots_gb))


@pytest.mark.parametrize(
    ("given", "levels"), [("none", ()), ("default", LEVELS), ("0.9", (0.9,)), ("0.9,0.25", (0.9, 0.25))]
)
def test_levels(given: str, levels: tuple[float, ...]) -> None:
    result = CliRunner().invoke(shown, ["--snapshots", given, "--snapshots-gb", "1.5"])
    assert result.output == f"{(levels, 1.5)}\n"
    assert CliRunner().invoke(shown).output == f"{(LEVELS, 20.0)}\n"


@pytest.mark.parametrize("given", ["", "off", "0", "1.0", "0.9,,0.8", "nan", "-0.5"])
def test_what_is_no_level_is_refused(given: str) -> None:
    result = CliRunner().invoke(shown, ["--snapshots", given])
    assert result.exit_code == 2
    assert f"{given!r} is not none, default or noise levels between 0 and 1" in result.output
