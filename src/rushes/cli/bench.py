"""`rushes bench`: what this machine does, by one definition of each second."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rushes.cli.generate import rules_of
from rushes.cli.options import device_options, model_option, request_options
from rushes.pipelines.rules import resolve
from rushes.profiling.bench.base import NUM_CLIPS, NUM_JUDGED, NUM_REQUESTS, PARTS, UTILIZATION

if TYPE_CHECKING:
    from rushes.profiling.bench.base import Place
    from rushes.profiling.bench.report import Report
    from rushes.profiling.workloads.base import Workload


@click.command(short_help="Measure this machine, alone or in turn with peers.")
@model_option
@click.option(
    "--workload",
    default="interactive",
    show_default=True,
    help="where the prompts come from; an unknown one lists all",
)
@click.option(
    "--part",
    "parts",
    type=click.Choice([*PARTS, "mix"]),
    multiple=True,
    help="measure this part only; may be repeated. mix alone prints the workload's bounds, measuring nothing",
)
@click.option(
    "--peer",
    "peers",
    multiple=True,
    help="a rival to run in turn with us on the same folder; may be repeated; an unknown one lists all",
)
@click.option("--peer-device", help="where peers run; where we do when not given")
@click.option(
    "--clips",
    "num_clips",
    type=click.IntRange(1),
    default=NUM_CLIPS,
    show_default=True,
    help="clips timed alone, and pairs",
)
@click.option(
    "--requests",
    "num_requests",
    type=click.IntRange(1),
    default=NUM_REQUESTS,
    show_default=True,
    help="requests of the load, the first of the workload",
)
@click.option(
    "--rate",
    type=click.FloatRange(0, min_open=True),
    help=f"requests a second of the load; when not given, {UTILIZATION:.0%} of what one clip at a time gives",
)
@click.option(
    "--judged",
    "num_judged",
    type=click.IntRange(1),
    default=NUM_JUDGED,
    show_default=True,
    help="clips of each setting whose quality is measured",
)
@click.option("--floor-dtype", help="measure our clips in this dtype too, as a noise floor")
@request_options
@device_options
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="write everything, each single measurement included, as JSON",
)
def bench(
    name: str,
    workload: str,
    parts: tuple[str, ...],
    peers: tuple[str, ...],
    output: Path | None,
    device: str | None,
    dtype: str | None,
    peer_device: str | None,
    num_clips: int,
    num_requests: int,
    rate: float | None,
    num_judged: int,
    floor_dtype: str | None,
    **fields: Any,
) -> None:
    """Measure cold start, first preview, first frame, end to end, latency under load, and quality.

    docs/benchmarking.md defines each second. Flags of the request win over the workload's.
    """
    from rushes.profiling.workloads.base import load_workload

    chosen = load_workload(workload)
    if parts == ("mix",):
        show_mix(chosen)
        return
    given = {field: value for field, value in fields.items() if value is not None}
    check(name, chosen, peers, given, output)

    from rushes.profiling.bench.session import Plan, run_plan

    plan = Plan(
        place=place_of(name, device, dtype),
        workload=chosen,
        fields=given,
        parts=parts or PARTS,
        peers=peers,
        peer_device=peer_device,
        num_clips=num_clips,
        num_requests=num_requests,
        rate=rate,
        num_judged=num_judged,
        floor_dtype=floor_dtype,
        arguments=tuple(sys.argv[1:]),
    )
    report = run_plan(plan, say=lambda line: click.echo(f"rushes: {line}", err=True))
    show(report)
    if output is not None:
        from rushes.profiling.output import write_json

        write_json(output, report.to_json(), indent=1)
        click.echo(os.fsencode(output))


def check(
    name: str, workload: Workload, peers: tuple[str, ...], fields: dict[str, Any], output: Path | None
) -> None:
    """Whatever can be told before anything is loaded. Raises `RequestError` or `click.UsageError`."""
    from rushes.profiling.bench.contenders import PEERS

    for peer in peers:
        PEERS.check(peer)
    resolve(rules_of(name), "a dog", **{"preset": workload.preset, **fields})
    if output is not None and (output.is_dir() or not output.parent.is_dir()):
        raise click.UsageError(f"{output}: is a folder, or there is no folder {output.parent}")


def place_of(name: str, device: str | None, dtype: str | None) -> Place:
    """What to open and where, as `rushes.load` would choose. Raises `ConfigError`."""
    from rushes.config import read_settings
    from rushes.pipelines.device import choose_device, choose_dtype
    from rushes.profiling.bench.base import Place

    settings = read_settings()
    where = choose_device(device or settings.device)
    precision = choose_dtype(dtype or settings.dtype, where)
    return Place(model=name, device=str(where), dtype=str(precision).removeprefix("torch."))


def show_mix(workload: Workload) -> None:
    """The kinds of requests of a workload, and the hits that they allow."""
    from rushes.cli.tables import show_table
    from rushes.profiling.bench.tables import mix_table
    from rushes.profiling.workloads.mix import mix_of

    click.echo(workload.title)
    click.echo()
    show_table(mix_table(workload.name, mix_of(workload.prompts())))


def show(report: Report) -> None:
    """What was measured with and on, and a table for each part."""
    from rushes.cli.tables import show_table
    from rushes.profiling.bench.tables import tables_of

    about: dict[str, Any] = dict(report.about)
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    click.echo(f"commit {about['commit']} on {about['device']} ({about['cpu']}); {versions}")
    for table in tables_of(report):
        click.echo()
        show_table(table)
