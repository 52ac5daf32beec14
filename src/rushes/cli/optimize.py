"""`rushes optimize`: which passes pay on this device, as a plan file that every command takes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rushes.cli.generate import rules_of
from rushes.cli.options import device_options, field_options
from rushes.cli.plans import check_output, write_plan
from rushes.errors import ConfigError
from rushes.passes.base import PASSES
from rushes.passes.presets import PLAN_PRESETS, plan_preset, with_calibration
from rushes.pipelines.rules import resolve

if TYPE_CHECKING:
    from rushes.passes.plan import Plan
    from rushes.pipelines.model import Model
    from rushes.profiling.ladder import Ladder

PROMPTS = ("a red dog running in the park", "two blue cats standing on a beach", "a green car in a city")
SEED = 7
NUM_CLIPS = 2


@click.command(short_help="Measure which passes pay here, and write a plan.")
@click.argument("name", metavar="MODEL", default="toy")
@click.option(
    "--preset",
    "goal",
    default="exact",
    show_default=True,
    help="; ".join(f"{name}: {preset.title}" for name, preset in PLAN_PRESETS.items()),
)
@click.option(
    "--budget-psnr",
    "budget_db",
    type=click.FloatRange(0.0),
    help="least PSNR in dB against the plain model; for exact, the noise floor's when not given",
)
@click.option(
    "--clips",
    "num_clips",
    type=click.IntRange(1, len(PROMPTS)),
    default=NUM_CLIPS,
    show_default=True,
    help="made with every plan, each of another prompt",
)
@click.option(
    "--budget-seconds",
    "budget_s",
    type=click.FloatRange(0.0),
    help="begin no pass whose clips would end after these; the plain model is always measured",
)
@click.option(
    "--calibration",
    "calibration_file",
    type=click.Path(path_type=Path),
    help="a file of `rushes calibrate`: int8-linears is tried too, where fp8-linears is not kept",
)
@click.option("--without", multiple=True, metavar="PASS", help="do not try this pass; may be repeated")
@click.option("--sampling", help="named sampling settings of the clips, over which the fields below win")
@field_options
@device_options
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("plan.json"),
    show_default=True,
    help="the plan, for --plan and rushes.load",
)
@click.option("--json", "as_json", is_flag=True, help="print everything measured as one JSON object")
def optimize(
    name: str,
    goal: str,
    budget_db: float | None,
    num_clips: int,
    budget_s: float | None,
    calibration_file: Path | None,
    without: tuple[str, ...],
    sampling: str | None,
    device: str | None,
    dtype: str | None,
    output: Path,
    as_json: bool,
    **fields: Any,
) -> None:
    """Try the passes of a preset on MODEL, one on top of the other, and keep those that save time.

    Each is measured on this device with the same clips as the one before, in turn; it is kept when it saves
    more than the plain model's own clips differ in time. Its error against the plain model stands beside the
    noise floor. A pass that cannot run here is left out, and the table says why.
    """
    given = {field: value for field, value in {**fields, "preset": sampling}.items() if value is not None}
    preset = plan_preset(goal)
    for one in without:
        PASSES.check(one)
    rules = rules_of(name)
    resolve(rules, PROMPTS[0], **given)
    check_output(output)
    seed = given.pop("seed", SEED)
    calibration = calibrated(calibration_file, rules.name)
    if calibration is not None:
        with_calibration(preset, calibration)

    import rushes
    from rushes.profiling.bench.about import about
    from rushes.profiling.optimize import Task
    from rushes.profiling.optimize import optimize as find

    def open_model(plan: Plan) -> Model:
        return rushes.load(name, device=device, dtype=dtype, plan=plan)

    task = Task(
        preset=goal,
        open_model=open_model,
        prompts=PROMPTS[:num_clips],
        seeds=[seed + number for number in range(num_clips)],
        fields=given,
        budget_db=budget_db,
        budget_s=budget_s,
        calibration=calibration,
        without=without,
        about=about(open_device(device), click.get_current_context().obj or ()),
    )
    plan, ladder = find(task, say=lambda line: click.echo(f"rushes: {line}", err=True))
    write_plan(plan, output)
    show(ladder, as_json=as_json)
    if not as_json:
        click.echo(os.fsencode(output))


def calibrated(file: Path | None, model: str) -> dict[str, Any] | None:
    """Settings of int8-linears with this file, None without one. Raises `ConfigError`: no calibration, or
    another model's."""
    if file is None:
        return None
    from rushes.passes.calibration import read_all, targets_of

    found, about = read_all(file)
    made_for = about.get("model", model)
    if made_for != model:
        raise ConfigError(
            f"calibration {file}: made for {made_for}, not for {model}; run `rushes calibrate` for it"
        )
    return {"calibration": str(file.resolve()), "targets": targets_of(found)}


def open_device(name: str | None) -> Any:
    """The torch device that `rushes.load` would choose. Raises `ConfigError`."""
    from rushes.config import read_settings
    from rushes.pipelines.device import choose_device

    return choose_device(name or read_settings().device)


def show(ladder: Ladder, *, as_json: bool) -> None:
    """The table and its remarks; or everything as one JSON object."""
    from rushes.cli.tables import print_table
    from rushes.profiling.ladder import HEADER

    if as_json:
        click.echo(json.dumps(ladder.to_json()))
        return
    click.echo(f"{ladder.model}, preset {ladder.preset}, on {ladder.about['device']}")
    print_table(HEADER, ladder.rows())
    for remark in ladder.remarks():
        click.echo(remark)
