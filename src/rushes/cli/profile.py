"""`rushes profile`: where the milliseconds of a clip go, and what would save some."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rushes.cli.generate import rules_of
from rushes.cli.options import device_options, model_option, request_options
from rushes.errors import OutputError
from rushes.pipelines.rules import PipelineRules

if TYPE_CHECKING:
    from rushes.pipelines.model import Model
    from rushes.profiling.capture import Recorded
    from rushes.profiling.clip import Ask
    from rushes.profiling.report import Profile, Run
    from rushes.profiling.session import Options, Session

PROMPT = "a dog running in the park"
OPERATORS = 10
"""Rows of `--top` when it is only sorted."""

SORTS = ("device_time", "host_time", "calls", "flops", "bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What was asked for, checked.

    Attributes:
        arguments: the command line, for the record.
    """

    name: str
    prompt: str
    fields: dict[str, Any]
    device: str | None
    dtype: str | None
    tries: Sequence[str]
    sweep: str | None
    is_against: bool
    is_short: bool
    arguments: tuple[str, ...]


@click.command()
@click.argument("prompt", default=PROMPT)
@model_option
@request_options
@device_options
@click.option(
    "-o",
    "--output",
    "outputs",
    multiple=True,
    type=click.Path(path_type=Path),
    help="write x.html (a page), x.json (for --compare) or x.trace.json[.gz] (Perfetto); may be repeated",
)
@click.option(
    "--repeats", type=click.IntRange(1, 100), default=3, show_default=True, help="runs after a warm-up"
)
@click.option("--short", is_flag=True, help="run a few units of each kind and extrapolate; says so")
@click.option("--only-stages", is_flag=True, help="leave operators, ceilings and findings out")
@click.option("--stacks", is_flag=True, help="attribute each operator to its Python line")
@click.option("--top", type=click.IntRange(1, 1000), help="also print so many single operators or kernels")
@click.option("--sort", type=click.Choice(SORTS), help="by what --top is ordered  [default: device_time]")
@click.option(
    "--try",
    "tries",
    multiple=True,
    metavar="NAME=VALUE",
    help="measure a switch beside the baseline: attention=flash, steps=10, guidance=off, dtype=bfloat16,"
    " solver=euler, ...; may be repeated",
)
@click.option("--sweep", metavar="FIELD=V,V", help="profile at each value and fit how time grows")
@click.option("--against", type=click.Choice(["diffusers"]), help="profile the same clip there too")
@click.option(
    "--compare",
    "files",
    nargs=2,
    type=click.Path(path_type=Path),
    help="print two saved profiles side by side; runs nothing",
)
@click.option("--json", "as_json", is_flag=True, help="print one JSON object instead of tables")
def profile(
    prompt: str,
    name: str,
    device: str | None,
    dtype: str | None,
    outputs: tuple[Path, ...],
    repeats: int,
    short: bool,
    only_stages: bool,
    stacks: bool,
    top: int | None,
    sort: str | None,
    tries: tuple[str, ...],
    sweep: str | None,
    against: str | None,
    files: tuple[Path, Path] | None,
    as_json: bool,
    **fields: Any,
) -> None:
    """Say where the time of a clip goes, stage by stage and operator by operator, and what would save some.

    Nothing is kept of the clip itself. Everything is measured in this run, the device's limits included.
    """
    check_outputs(outputs)
    shown = (top or OPERATORS) if top or sort else 0
    if files is not None:
        if tries or sweep is not None or against is not None:
            raise click.UsageError("--compare runs nothing: leave --try, --sweep and --against out")
        show(read_comparison(*files), outputs, None, num_raw=shown, as_json=as_json)
        return
    given = {field: value for field, value in fields.items() if value is not None}
    plan = Plan(
        name=name,
        prompt=prompt,
        fields=given,
        device=device,
        dtype=dtype,
        tries=tries,
        sweep=sweep,
        is_against=against is not None,
        is_short=short,
        arguments=click.get_current_context().obj or (),
    )
    check(plan)
    options = make_options(repeats, shown, sort, short=short, captures=not only_stages, stacks=stacks)
    found, recorded = run(plan, options)
    show(found, outputs, recorded, num_raw=shown, as_json=as_json)


def make_options(
    repeats: int, shown: int, sort: str | None, *, short: bool, captures: bool, stacks: bool
) -> Options:
    """The profiler's options of the flags."""
    from rushes.profiling.session import MAX_RAW, Options

    return Options(
        repeats=repeats,
        is_short=short,
        captures=captures,
        stacks=stacks,
        top=max(MAX_RAW, shown),
        sort=sort or SORTS[0],
    )


def check_outputs(outputs: Sequence[Path]) -> None:
    """Raises `click.UsageError` for a file that could not be written or whose name says no format."""
    from rushes.stages.video_encode import check_parent

    for path in outputs:
        if not path.name.endswith((".html", ".json", ".trace.json.gz")):
            raise click.UsageError(f"{path}: ends in none of .html, .json, .trace.json, .trace.json.gz")
        try:
            check_parent(path)
        except OutputError as error:
            raise click.UsageError(str(error)) from error


def check(plan: Plan) -> None:
    """Raises `InvalidRequest` or `click.UsageError` for what cannot be run, before any weights are read."""
    from rushes.pipelines.rules import resolve
    from rushes.profiling.sweep import parse_sweep
    from rushes.profiling.tries import parse_try

    if (bool(plan.tries) + (plan.sweep is not None) + plan.is_against) > 1:
        raise click.UsageError("choose one of --try, --sweep and --against")
    if plan.is_short and plan.fields.get("mode") == "causal":
        raise click.UsageError(
            "--short does not go with --mode causal: every latent frame costs another time"
        )
    rules: PipelineRules = rules_of(plan.name)
    resolve(rules, plan.prompt, **plan.fields)
    for text in plan.tries:
        resolve(rules, plan.prompt, **{**plan.fields, **parse_try(text, rules).fields})
    if plan.sweep is not None:
        parse_sweep(plan.sweep, rules)


def run(plan: Plan, options: Options) -> tuple[Profile, Recorded | None]:
    """Load the model and profile what was asked for."""
    import rushes
    from rushes.profiling.bench.about import about
    from rushes.profiling.clip import Ask
    from rushes.profiling.report import Profile

    def open_model(dtype: str | None) -> Model:
        return rushes.load(plan.name, device=plan.device, dtype=dtype)

    net = open_model(plan.dtype)
    ask = Ask(prompt=plan.prompt, fields=plan.fields)
    if plan.sweep is not None:
        from rushes.profiling.sweep import parse_sweep, sweep

        field, values = parse_sweep(plan.sweep, net.rules)
        runs, growth = sweep(net, ask, field, values, options, say)
        return Profile(kind="sweep", about=about(net.device, plan.arguments), runs=runs, sweep=growth), None
    sessions = _sessions(plan, net, ask, open_model, options)
    runs = tuple(_noted(session.run, net.notes) for session in sessions)
    kind = "against" if plan.is_against else "tries" if plan.tries else "run"
    return Profile(kind=kind, about=about(net.device, plan.arguments), runs=runs), sessions[0].recorded


def _sessions(
    plan: Plan, net: Model, ask: Ask, open_model: Callable[[str | None], Model], options: Options
) -> list[Session]:
    from rushes.profiling import session
    from rushes.profiling.tries import parse_try, subjects

    switches = [parse_try(text, net.rules) for text in plan.tries]
    chosen: list[session.Subject] = [*subjects(net, ask, switches, open_model)]
    if plan.is_against:
        from rushes.config import TOY_FOLDER
        from rushes.profiling.against import diffusers_subject

        folder = TOY_FOLDER if plan.name == "toy" else Path(plan.name)
        request = net.job(plan.prompt, **plan.fields).request
        dtype = str(net.parts.vae().post_quant_conv.weight.dtype).removeprefix("torch.")
        chosen.append(diffusers_subject(net, plan.name, folder, request, dtype))
    return session.profile(chosen, options, say)


def _noted(run: Run, notes: Sequence[str]) -> Run:
    sampling = run.request["sampling"]
    if run.is_short and (sampling["guidance_gate"] < 1 or sampling["step_cache"] > 0):
        notes = (*notes, "Extrapolated: what a guidance gate or a step cache would save is not counted.")
    return replace(run, notes=(*run.notes, *notes))


def read_comparison(a: Path, b: Path) -> Profile:
    """The first runs of two files as one profile. Raises `InvalidRequest` for a file that is none."""
    from rushes.profiling.report import Profile, read

    profiles = [read(path) for path in (a, b)]
    runs = [replace(found.runs[0], label=path.stem) for found, path in zip(profiles, (a, b), strict=True)]
    return Profile(kind="comparison", about=profiles[0].about, runs=tuple(runs))


def say(text: str) -> None:
    """Tell a person at a terminal what happens; nobody else."""
    if sys.stderr.isatty():
        click.echo(f"rushes: {text}", err=True)


def show(
    found: Profile,
    outputs: Sequence[Path],
    recorded: Recorded | None,
    *,
    num_raw: int,
    as_json: bool,
) -> None:
    """Print the profile and write the files."""
    from rushes.profiling.chrome import ENDINGS, save_trace
    from rushes.profiling.page_writer import save_page
    from rushes.profiling.report import save, to_json

    for path in outputs:
        if path.name.endswith(ENDINGS):
            save_trace(found, recorded.trace if recorded else None, path)
        elif path.suffix == ".html":
            save_page(found, path)
        else:
            save(found, path)
    if as_json:
        click.echo(json.dumps(to_json(found), allow_nan=False))
        return
    print_tables(found, num_raw)
    for path in outputs:
        click.echo(str(path))


def print_tables(found: Profile, num_raw: int) -> None:
    """Every table under its title."""
    from rushes.cli.tables import show_table
    from rushes.profiling.tables import tables

    for table in tables(found, num_raw=num_raw):
        show_table(table)
