"""`rushes calibrate`: what ranges a model's linear layers meet, as a file for the pass `int8-linears`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from rushes.cli.generate import rules_of
from rushes.cli.options import device_options, field_options, model_option
from rushes.cli.plans import check_output, write_plan
from rushes.pipelines.rules import resolve

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rushes.passes.calibration import Calibration
    from rushes.passes.plan import Plan

DEFAULT = "default"
PROMPTS = (
    "a red dog running in the park",
    "two blue cats standing on a beach",
    "a green car driving through a city at night",
    "three yellow birds flying over the sea",
    "a pink horse jumping in the snow",
    "a purple fish moving to the left",
    "a red rocket rising in the desert",
    "a blue bear spinning in the forest",
)
"""Subjects, colours, counts, motions and places in turn: what cross-attention reads depends on the prompt."""

SEED = 7
NUM_BUCKETS = 4


@click.command(short_help="Measure ranges for int8-linears, into a file.")
@model_option
@click.option(
    "--prompts",
    "prompts_file",
    default=DEFAULT,
    show_default=True,
    metavar="FILE|default",
    help=f"one prompt a line, those that will be served; default: {len(PROMPTS)} of our own",
)
@click.option(
    "--buckets",
    "num_buckets",
    type=click.IntRange(1, 64),
    default=NUM_BUCKETS,
    show_default=True,
    help="equal parts of the timesteps, each with ranges of its own",
)
@click.option("--preset", help="named sampling settings of the clips, over which the fields below win")
@field_options
@device_options
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("int8.safetensors"),
    show_default=True,
    help="the ranges, for `rushes optimize --calibration` and the pass",
)
@click.option(
    "--plan-output", type=click.Path(path_type=Path), help="also write a plan that uses them, for --plan"
)
@click.option(
    "--method",
    default="smoothquant",
    show_default=True,
    help="of that plan: min-max, percentile or smoothquant; the file serves all three",
)
def calibrate(
    name: str,
    prompts_file: str,
    num_buckets: int,
    preset: str | None,
    device: str | None,
    dtype: str | None,
    output: Path,
    plan_output: Path | None,
    method: str,
    **fields: Any,
) -> None:
    """Make a clip of each prompt and keep how large the inputs of every linear layer get, by noise expert and
    timestep. Clips are denoised only, and kept nowhere.

    Each takes the time of a plain one; a few dozen prompts are plenty.
    """
    given = {field: value for field, value in {**fields, "preset": preset}.items() if value is not None}
    prompts = read_prompts(prompts_file)
    rules = rules_of(name)
    check_method(method)
    for prompt in prompts:
        resolve(rules, prompt, **given)
    for path in (output, plan_output):
        if path is not None:
            check_output(path)
    seed = given.pop("seed", SEED)

    import rushes
    from rushes.passes.calibration import write_calibration
    from rushes.pipelines.calibrate import calibrate_model

    model = rushes.load(name, device=device, dtype=dtype)
    found = calibrate_model(
        model,
        prompts,
        [seed + number for number in range(len(prompts))],
        num_buckets=num_buckets,
        say=lambda line: click.echo(f"rushes: {line}", err=True),
        **given,
    )
    write_calibration(output, found, about(rules.name, prompts, num_buckets, given))
    if plan_output is not None:
        write_plan(plan_of(output, found, rules.name, method), plan_output)
    for path in (output, plan_output):
        if path is not None:
            click.echo(os.fsencode(path))


def read_prompts(name: str) -> Sequence[str]:
    """Our own, or the lines of a file that are not empty. Raises `click.UsageError`: there are none."""
    if name == DEFAULT:
        return PROMPTS
    try:
        lines = Path(name).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"--prompts {name}: cannot be read ({error})") from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise click.UsageError(f"--prompts {name}: holds no prompt; write one a line")
    return prompts


def check_method(method: str) -> None:
    """Raises `UnknownName`."""
    from rushes.errors import UnknownName
    from rushes.passes.int8 import Method

    if method not in get_args(Method):
        raise UnknownName("method", method, get_args(Method))


def about(model: str, prompts: Sequence[str], num_buckets: int, given: Mapping[str, Any]) -> dict[str, str]:
    """What the file tells of its making."""
    fields = ", ".join(f"{name}={value}" for name, value in given.items())
    return {"model": model, "prompts": str(len(prompts)), "buckets": str(num_buckets), "fields": fields}


def plan_of(file: Path, found: Mapping[str, Calibration], model: str, method: str) -> Plan:
    """All layers that were met, on int8 codes. The file is named from the root: a worker starts elsewhere."""
    from rushes.passes.calibration import targets_of
    from rushes.passes.plan import Plan, make_pass

    one = make_pass("int8-linears", calibration=str(file.resolve()), method=method, targets=targets_of(found))
    return Plan(passes=(one,), model=model)
