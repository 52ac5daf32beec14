"""The flags that name the folder of jobs, and the servers beside it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rushes.config import service_variables, store_folder

if TYPE_CHECKING:
    from rushes.engine.workplace import Workplace

store_option = click.option(
    "--store",
    type=click.Path(file_okay=False, path_type=Path),
    default=store_folder,
    show_default="RUSHES_STORE, else ~/.rushes",
    help="folder of jobs, checkpoints and results that clients and workers share",
)

keep_gb_option = click.option(
    "--keep-gb",
    type=click.FloatRange(0.0),
    default=50.0,
    show_default=True,
    help="bytes of results that stay; the oldest go first",
)


SERVICES = {
    "redis": ("URL", "share encoded texts and news with other processes: redis://HOST:PORT/NUMBER"),
    "memcached": ("HOST:PORT", "share encoded texts there instead"),
    "s3": ("URL", "keep results in a bucket: s3://BUCKET/PREFIX; credentials as the AWS variables say"),
    "public_url": ("URL", "base of a CDN before the bucket"),
}


def service_options(command: Callable[..., None]) -> Callable[..., None]:
    """A flag for each of `SERVICES`, given by the environment where it is left out."""
    for name, (metavar, text) in reversed(SERVICES.items()):
        option = click.option(
            f"--{name.replace('_', '-')}",
            name,
            metavar=metavar,
            default=partial(_of_environment, name),
            show_default=f"RUSHES_{name.upper()}, else none",
            help=text,
        )
        command = option(command)
    return command


def open_workplace(store: Path) -> Workplace:
    """The folder of jobs with the servers that the environment names. Raises `ConfigError`."""
    from rushes.engine.workplace import Workplace

    given = service_variables()
    return Workplace.of_services(store, s3=given.get("s3"), public_url=given.get("public_url"))


def _of_environment(name: str) -> str | None:
    return service_variables().get(name)
