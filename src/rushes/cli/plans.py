"""`--plan`, the same flag wherever a model is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

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
