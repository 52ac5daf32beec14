"""`rushes edit`: an earlier clip with another prompt, from its stored latents."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rushes.cli.generate import tell_all
from rushes.cli.jobs import check_copy, fetch, follow, tell_who_serves
from rushes.cli.remote import client_of, service_options, show
from rushes.cli.workplace import open_workplace, store_option

if TYPE_CHECKING:
    from rushes.engine.workplace import Workplace


@click.command(short_help="A clip again, with another prompt.")
@click.argument("video")
@click.argument("prompt")
@store_option
@click.option(
    "--preset",
    help="with whose settings; 'own': with the clip's  [default: few-step weights that come with the model]",
)
@click.option(
    "--strength",
    type=click.FloatRange(0.0, 1.0),
    help="noise level at which the clip is taken up; 1 makes a new one"
    "  [default: 0.98 with a preset, 0.8 with the clip's own]",
)
@click.option(
    "--mask",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="PNG of the clip's aspect: white changes, black stays",
)
@click.option("--mask-frames", help="FIRST-LAST or FIRST-: only these frames change")
@click.option("--seed", type=click.IntRange(0), help="of the noise put back; by default none is")
@click.option("--negative-prompt", help="instead of the clip's")
@service_options
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="copy the new clip (.mp4) there",
)
def edit(
    video: str,
    prompt: str,
    store: Path,
    url: str | None,
    key: str | None,
    output: Path | None,
    **fields: Any,
) -> None:
    """Make the clip of job VIDEO anew with PROMPT, going on from its latents where they were kept.

    Says on stderr what was saved. Prints the new job's path or URL last.
    """
    if output is not None:
        check_copy(output)
    given = {name: value for name, value in fields.items() if value is not None}
    if "mask" in given:
        given["mask"] = given["mask"].read_bytes()
    client = client_of(url, key)
    if client is None:
        with open_workplace(store) as place:
            click.echo(_edit_here(place, video, {"prompt": prompt, **given}, output))
        return
    with client:
        clip = client.remix(video, prompt, **given)
        click.echo(f"rushes: job {clip.id}", err=True)
        tell_all(clip.video.get("notes", ()))
        show(clip)
        click.echo(_saved(clip.wait().video["cache"]), err=True)
        click.echo(str(clip.save(output)) if output else f"{client.url}{clip.video['urls']['content']}")


def _edit_here(place: Workplace, video: str, body: dict[str, Any], output: Path | None) -> str:
    from rushes.server.auth import LOCAL
    from rushes.server.edits import edit_of
    from rushes.server.feed import Feed
    from rushes.server.gateway import Gateway
    from rushes.server.problems import ProblemError

    parent = place.jobs.get(video)
    tenant = parent.options.tenant
    tell_who_serves(place, parent.request.pipeline)
    gateway = Gateway(place, Feed(place.jobs))
    try:
        record = gateway.remix(replace(LOCAL, tenant=tenant), video, edit_of(body, tenant=tenant))
    except ProblemError as error:
        raise click.UsageError(error.problem.message) from error
    click.echo(f"rushes: job {record.id}", err=True)
    done = follow(place.client(), record.id)
    click.echo(_saved(gateway.video(done)["cache"]), err=True)
    return fetch(place, done, output)


def _saved(cache: dict[str, Any]) -> str:
    """What a clip took from earlier ones, in a line."""
    if cache["kind"] == "miss":
        return f"rushes: made anew: no latents to go on from ({cache['reason']})"
    level = "" if cache["sigma"] is None else f" from noise level {cache['sigma']:.2f}"
    saved_s = cache["seconds_saved"] or 0.0
    return f"rushes: {cache['kind']}{level}, {cache['steps_saved']} steps and {saved_s:.1f} s saved"
