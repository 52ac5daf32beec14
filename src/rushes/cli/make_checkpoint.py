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

    click.echo(os.fsencode(checkpoint_writer.make_checkpoint(kind, folder, layout)))
