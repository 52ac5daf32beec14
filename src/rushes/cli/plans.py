"""`--plan`, the same flag wherever a model is loaded, and writing its file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rushes.errors import OutputError

if TYPE_CHECKING:
    from rushes.passes.plan import Plan

plan_option = click.option(
    "--plan",
    "plan_file",
    type=click.Path(path_type=Path),
    help="a file of `rushes optimize`: the passes that the model is loaded with, and request defaults",
)


def plan_of_file(file: Path | None, model: str) -> Plan:
    """The plan of `--plan`, the empty one for None. Raises `ConfigError`: no plan, or another model's.

    Args:
        model: name of the model's rules.
    """
    from rushes.passes.plan import Plan, read_plan

    plan = Plan() if file is None else read_plan(file)
    plan.check_model(model)
    return plan


def check_output(output: Path) -> None:
    """Raises `click.UsageError` when no file can be written there, before anything is measured."""
    if output.is_dir() or not output.parent.is_dir():
        raise click.UsageError(f"{output}: is a folder, or there is no folder {output.parent}")


def write_plan(plan: Plan, output: Path) -> None:
    """Raises `OutputError`."""
    try:
        output.write_text(plan.to_json(), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{output}: cannot be written ({error.strerror})") from error
