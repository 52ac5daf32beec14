"""Commands that call a service instead of a folder: where it is, and what they show."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from rushes.cli.generate import progress_of, tell_all
from rushes.config import client_variables

if TYPE_CHECKING:
    from rushes.client import Client, Clip

LOCAL_ONLY = ("store", "tenant", "plan_file")
"""Parameters that say something of a folder of jobs; a service decides them by itself."""


def service_options(command: Callable[..., None]) -> Callable[..., None]:
    """Which service, and the key to it."""
    flags = (
        click.option("--url", help="a service to call, instead of --store  [default: RUSHES_URL]"),
        click.option("--key", help="its API key; better in RUSHES_KEY, where no list of processes shows it"),
    )
    for flag in reversed(flags):
        command = flag(command)
    return command


def client_of(url: str | None, key: str | None) -> Client | None:
    """The service that a command line or the environment names; None for a folder of jobs.

    A `--store` that was given wins over the environment.

    Raises:
        click.UsageError: a service, and flags that only a folder understands.
    """
    from rushes.client import Client

    given = given_flags(LOCAL_ONLY)
    environment_url, environment_key = client_variables()
    if url is None and "store" in given:
        environment_url = None
    if url is None and environment_url is None:
        if key is not None:
            raise click.UsageError("--key goes with --url")
        return None
    for name in given:
        flag = f"--{name.removesuffix('_file')}"
        raise click.UsageError(f"{flag} is for a folder of jobs; with --url the service decides it")
    return Client(url or environment_url or "", key or environment_key)


def given_flags(names: Collection[str]) -> list[str]:
    """Those parameters that stand on the command line."""
    context = click.get_current_context()
    return [name for name in names if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]


def submit_to(
    client: Client, prompt: str, output: Path | None, fields: dict[str, Any], *, watch: bool
) -> None:
    """Queue a clip on a service; print what `rushes submit` prints, for a clip that is not saved its URL."""
    clip = client.create(prompt, **fields)
    notes = clip.video.get("notes", ())  # an older service tells none
    if not watch and output is None:
        click.echo(clip.id)
        tell_all(notes)
        return
    click.echo(f"rushes: job {clip.id}", err=True)
    tell_all(notes)
    try:
        show(clip)
        clip.wait()
    except KeyboardInterrupt:
        click.echo(f"rushes: job {clip.id} goes on; the service's studio or API ends it", err=True)
        raise
    if output is None:
        click.echo(f"{client.url}{clip.video['urls']['content']}")
    else:
        click.echo(str(clip.save(output)))


def list_of(client: Client, statuses: Collection[str], limit: int) -> Iterator[Clip]:
    """The newest clips of the key's tenant with one of these statuses, by the words of a folder's jobs; none
    for all."""
    found = (clip for clip in client.list() if not statuses or status_of(clip) in statuses)
    return islice(found, limit)


def status_of(clip: Clip) -> str:
    """A folder's word for it."""
    if (clip.video["error"] or {}).get("code") == "cancelled":
        return "cancelled"
    return {"in_progress": "running"}.get(clip.status, clip.status)


def show(clip: Clip) -> None:
    """A clip's way until its end, with a bar a stage."""
    from rushes.cli.progress import ProgressBars

    with ProgressBars("queued") as bars:
        for event in clip.events():
            if event.kind == "progress":
                bars.update(progress_of(event))
