"""`rushes inspect`: what a checkpoint folder is, its settings and their origins, its size and memory."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rushes.models.checkpoint_report import CheckpointReport


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="FOLDER|toy")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object")
def inspect(folder: Path, as_json: bool) -> None:
    """Say what a checkpoint FOLDER, or the embedded model toy, is, reading no weights."""
    from rushes.config import TOY_FOLDER
    from rushes.models.checkpoint import open_checkpoint
    from rushes.models.checkpoint_report import describe

    # A folder of that name goes first: whoever has one means it.
    is_toy = str(folder) == "toy" and not folder.is_dir()
    found = describe(open_checkpoint(TOY_FOLDER if is_toy else folder))
    if as_json:
        click.echo(json.dumps(asdict(found)))
    else:
        show(found)


def show(found: CheckpointReport) -> None:
    """The report as tables, its notes last."""
    from rich.filesize import decimal

    from rushes.cli.tables import print_table

    click.echo(f"{found.folder}: {found.pipeline} in the {found.layout} layout, {decimal(found.num_bytes)}\n")
    print_table(
        ("setting", "value", "where it comes from"),
        [(name, str(setting.value), setting.origin) for name, setting in found.settings.items()],
    )
    print_table(
        ("part", "on disk", "values"),
        [(part.name, decimal(part.num_bytes), f"{part.num_parameters:,}") for part in found.parts],
    )
    print_table(
        ("memory as", "all on the device", "one noise expert at a time"),
        [(need.dtype, decimal(need.resident), decimal(need.swapped)) for need in found.memory],
    )
    for note in found.notes:
        click.echo(f"note: {note}")
