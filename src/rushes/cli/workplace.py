"""The flag that names the folder of jobs."""

from __future__ import annotations

from pathlib import Path

import click

from rushes.config import store_folder

store_option = click.option(
    "--store",
    type=click.Path(file_okay=False, path_type=Path),
    default=store_folder,
    show_default="RUSHES_STORE, else ~/.rushes",
    help="folder of jobs, checkpoints and results that clients and workers share",
)
