"""`rushes trace`: where the time of one job went."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rushes.cli.remote import client_of, service_options
from rushes.cli.workplace import store_option

if TYPE_CHECKING:
    from rushes.engine.trace_report import JobTrace, Phase

BAR_WIDTH = 32
SHORTEST_S = 0.001
"""Of a phase that gets a line; a prompt embedding gets one always, as it says whether it was a hit."""

NAMES = {
    "unleased": "back in the queue",
    "death": "lost by a death",
    "load": "loading weights",
    "prompt_embedding": "prompt embedding",
    "text_encode": "text encode, rest",
    "vae_decode": "VAE decode",
    "video_encode": "video encode",
    "store_write": "store",
}
"""Of phases, where the trace's own would say less."""


@click.command(short_help="Show where the time of a job went.")
@click.argument("job_id")
@store_option
@service_options
@click.option("--json", "as_json", is_flag=True, help="print the whole trace, every span, as JSON")
def trace(job_id: str, store: Path, url: str | None, key: str | None, as_json: bool) -> None:
    """Print the waterfall of one job, and whether it was the cache, the model or the queue.

    Phases that run side by side overlap: their seconds may add up to more than the job took.
    """
    found = _asked(job_id, store, url, key)
    if as_json:
        click.echo(json.dumps(found.to_json()))
        return
    click.echo(title(found))
    for phase in found.phases:
        if phase.seconds >= SHORTEST_S or phase.name == "prompt_embedding":
            click.echo(line(phase, found.total_s))
    for remark in remarks(found):
        click.echo(remark)
    click.echo(found.verdict.text)


def _asked(job_id: str, store: Path, url: str | None, key: str | None) -> JobTrace:
    """Of a service, or of a store on this machine."""
    from rushes.engine.trace_report import JobTrace, read_trace
    from rushes.engine.workplace import Workplace
    from rushes.errors import ServiceError

    client = client_of(url, key)
    if client is not None:
        with client:
            told = client.get(job_id).trace()
        try:
            return JobTrace.of_json(told)
        except (KeyError, TypeError) as error:
            raise ServiceError(f"{client.url}: its trace is of another version of Rushes") from error
    if not store.is_dir():
        raise click.UsageError(f"{store}: there is no store of jobs; --url asks a service")
    with Workplace(store) as place:
        return read_trace(place, job_id)


def title(found: JobTrace) -> str:
    """What became of the job, and when."""
    from rushes.engine.trace_report import seconds_text

    words = [f"job {found.job_id}: {found.status} after {seconds_text(found.total_s)}"]
    if found.first_frame_s is not None:
        words.append(f"first frame at {seconds_text(found.first_frame_s)}")
    if found.actual_s is not None:
        predicted = "" if found.predicted_s is None else f" ({seconds_text(found.predicted_s)} predicted)"
        words.append(f"{seconds_text(found.actual_s)} of the device{predicted}")
    return ", ".join(words)


def line(phase: Phase, total_s: float) -> str:
    """One row of the waterfall."""
    from rushes.engine.trace_report import seconds_text

    name = NAMES.get(phase.name, phase.name)
    bar = bar_of(phase.start_s, phase.end_s, total_s)
    return f"  {name:<18}{bar} {seconds_text(phase.seconds):>8}  {phase.detail}".rstrip()


def bar_of(start_s: float, end_s: float, total_s: float) -> str:
    """Where a phase lies in the whole.

    >>> bar_of(0.0, 0.5, 1.0)
    '━━━━━━━━━━━━━━━━················'
    """
    scale = BAR_WIDTH / total_s if total_s > 0 else 0.0
    first = min(BAR_WIDTH - 1, max(0, int(start_s * scale)))
    last = min(BAR_WIDTH, max(first + 1, round(end_s * scale)))
    return "·" * first + "━" * (last - first) + "·" * (BAR_WIDTH - last)


def remarks(found: JobTrace) -> list[str]:
    """What the waterfall does not show."""
    from rushes.engine.trace_report import seconds_text

    lines = []
    if found.deaths:
        workers = "1 worker" if found.deaths == 1 else f"{found.deaths} workers"
        lines.append(f"  {workers} died with it")
    for life in found.lives[1:]:
        lines.append(f"  taken again at {seconds_text(life['start_s'])} by {life['owner']}")
    if found.error is not None:
        lines.append(f"  it failed: {found.error}")
    if found.num_dropped:
        lines.append(f"  {found.num_dropped} spans were too many to be kept")
    return lines
