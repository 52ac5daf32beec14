"""`rushes make-checkpoint`: a tiny random checkpoint in the true layout, to wire things up with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import click


@click.command("make-checkpoint")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--tiny", "kind", required=True, help="which model to imitate: a14b or ti2v-5b")
@click.option(
    "--layout",
    type=click.Choice(["diffusers", "wan"]),
    default="diffusers",
    show_default=True,
    help="wan: the original repository's",
)
def make_checkpoint(folder: Path, kind: str, layout: Literal["diffusers", "wan"]) -> None:
    """Write a tiny random checkpoint to FOLDER, new or empty. Its videos are noise."""
    from rushes.models import checkpoint_writer

    check_folder(folder)
    click.echo(os.fsencode(checkpoint_writer.make_checkpoint(kind, folder, layout)))


def check_folder(folder: Path) -> None:
    """Raises `click.UsageError` unless the folder is new or empty."""
    is_folder = os.path.isdir(folder)
    if os.listdir(folder) if is_folder else os.path.lexists(folder):
        raise click.UsageError(f"{folder}: exists and is not an empty folder; give a new one")
