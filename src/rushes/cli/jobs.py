"""`rushes submit`, `rushes jobs`, `rushes cancel`: clients of a store that workers serve."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, get_args

import click

from rushes.cli.generate import progress_of, read_prompt, request_of, tell_notes
from rushes.cli.options import model_option, request_options
from rushes.cli.plans import plan_option
from rushes.cli.remote import client_of, given_flags, list_of, service_options, status_of, submit_to
from rushes.cli.workplace import open_workplace, store_option
from rushes.types import FINAL, JobOptions, JobStatus, Lane

if TYPE_CHECKING:
    from rushes.client import Client, Clip
    from rushes.engine.client import StoreClient
    from rushes.engine.workplace import Workplace
    from rushes.stores.base import JobRecord
    from rushes.types import GenerateRequest

COLUMNS = ("job", "status", "lane", "tenant", "age", "predicted", "took", "prompt")
COLUMNS_THERE = tuple(name for name in COLUMNS if name != "tenant")
PROMPT_WIDTH = 48


def options_of_a_job(command: Callable[..., None]) -> Callable[..., None]:
    """The flags of `JobOptions`."""
    flags = (
        click.option("--lane", type=click.Choice(get_args(Lane)), default="interactive", show_default=True),
        click.option(
            "--tenant", default="default", show_default=True, help="whose share of the device it uses"
        ),
        click.option("--deadline", "deadline_s", type=click.FloatRange(0.0), help="seconds from now on"),
        click.option("--degrade", is_flag=True, help="allow fewer frames, a smaller size or fewer steps"),
        click.option("--idempotency-key", help="the same key and request again is the same job"),
    )
    for flag in reversed(flags):
        command = flag(command)
    return command


@click.command(short_help="Queue a clip for a worker.")
@click.argument("prompt", required=False)
@click.option(
    "--prompt-file", type=click.File(encoding="utf-8"), help="read the prompt from a file, - for stdin"
)
@store_option
@model_option
@request_options
@options_of_a_job
@plan_option
@service_options
@click.option("--watch", is_flag=True, help="wait for the end, with a bar a stage")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="wait for the end and copy the clip (.mp4) there",
)
def submit(
    prompt: str | None,
    prompt_file: IO[str] | None,
    store: Path,
    name: str,
    lane: Lane,
    tenant: str,
    deadline_s: float | None,
    degrade: bool,
    idempotency_key: str | None,
    plan_file: Path | None,
    url: str | None,
    key: str | None,
    watch: bool,
    output: Path | None,
    **fields: Any,
) -> None:
    """Queue PROMPT. Prints the job's id; with --watch or -o the path of the clip, last.

    Of a plan only its request defaults are taken: passes are the worker's. With --url the service's rules
    and its default model hold.
    """
    from rushes.engine.client import seed_for

    given = {field: value for field, value in fields.items() if value is not None}
    prompt = read_prompt(prompt, prompt_file)
    if output is not None:
        check_copy(output)
    client = client_of(url, key)
    if client is not None:
        given |= {"priority": lane, "deadline_s": deadline_s, "degrade": degrade or None}
        given |= {"model": name} if given_flags(["name"]) else {}
        with client:
            submit_to(client, prompt, output, {**given, "idempotency_key": idempotency_key}, watch=watch)
        return
    if idempotency_key is not None:
        given.setdefault("seed", seed_for(tenant, idempotency_key))
    request = request_of(name, prompt, given, plan_file)
    options = JobOptions(
        lane=lane, tenant=tenant, deadline_s=deadline_s, degrade=degrade, idempotency_key=idempotency_key
    )
    tell_notes(request)
    with open_workplace(store) as place:
        _submit_here(place, request, options, output, watch=watch)


def _submit_here(
    place: Workplace, request: GenerateRequest, options: JobOptions, output: Path | None, *, watch: bool
) -> None:
    client = place.client()
    tell_who_serves(place, request.pipeline)
    job_id = client.submit(request, options)
    if not watch and output is None:
        click.echo(job_id)
        return
    click.echo(f"rushes: job {job_id}", err=True)
    try:
        record = follow(client, job_id)
    except KeyboardInterrupt:
        click.echo(f"rushes: job {job_id} goes on; rushes cancel {job_id} ends it", err=True)
        raise
    click.echo(fetch(place, record, output))


def tell_who_serves(place: Workplace, pipeline: str) -> None:
    """Say on stderr, before anything is queued, when a job will wait for a worker that is not there."""
    from rushes.engine.announcements import Roster

    served = sorted({word.pipeline for word in Roster(place.workers).words})
    if pipeline in served:
        return
    others = f"workers here serve {', '.join(served)}: choose one with --model, or " if served else ""
    click.echo(
        f"rushes: note: no worker serves {pipeline} in {place.folder}; {others}start one with rushes worker;"
        " until then the job waits",
        err=True,
    )


def check_copy(output: Path) -> None:
    """Raises `click.UsageError` when no clip can be put there."""
    from rushes.errors import OutputError
    from rushes.stages.video_encode import check_output

    if output.suffix != ".mp4":
        raise click.UsageError(f"{output}: a worker's clip is an mp4; name it so, or use rushes generate")
    try:
        check_output(output)
    except OutputError as error:
        raise click.UsageError(str(error)) from error


def follow(client: StoreClient, job_id: str) -> JobRecord:
    """Show a job's way until its end and return it completed. Raises what it ended with."""
    from rushes.cli.progress import ProgressBars
    from rushes.engine.client import result

    with ProgressBars("queued") as bars:
        for event in client.events(job_id):
            if event.kind == "progress":
                bars.update(progress_of(event))
    return result(client, job_id)


def fetch(place: Workplace, record: JobRecord, output: Path | None) -> str:
    """Path or URL of the finished clip, copied to `output` if that is given. Raises `OutputError`."""
    from rushes.errors import OutputError
    from rushes.stages.video_encode import growing_file

    assert record.result is not None, "a completed job has a result"
    found = place.artefacts.find(record)
    if found is None:
        raise OutputError(f"{record.result}: not in {place.folder}; RUSHES_S3 names a bucket where it may be")
    if output is None:
        return str(found.path or found.url)
    try:
        with growing_file(output) as copy:
            if found.path is None:
                copy.write(place.artefacts.read(found))
            else:
                with found.path.open("rb") as clip:
                    shutil.copyfileobj(clip, copy)
    except OSError as error:
        raise OutputError(f"{output}: {error.strerror}") from error
    return str(output)


@click.command(short_help="List jobs, newest first.")
@store_option
@click.option("--status", type=click.Choice(get_args(JobStatus)), multiple=True)
@click.option("--tenant")
@click.option("--limit", type=click.IntRange(1), default=30, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="print one JSON object a line")
@service_options
def jobs(
    store: Path,
    status: tuple[JobStatus, ...],
    tenant: str | None,
    limit: int,
    as_json: bool,
    url: str | None,
    key: str | None,
) -> None:
    """List the jobs of a store, or with --url those of the key's tenant."""
    from rushes.cli.tables import print_table

    client = client_of(url, key)
    if client is not None:
        with client:
            _list_there(client, status, limit, as_json=as_json)
        return
    if not store.is_dir():  # a fresh machine; to look makes no folder
        check_place(store)
        tell_none(store, as_json=as_json)
        return
    with open_workplace(store) as place:
        found = place.jobs.jobs(tenant=tenant, statuses=status, limit=limit)
    if as_json:
        for record in found:
            artefact = place.artefacts.find(record)
            where = None if artefact is None else str(artefact.path or artefact.url)
            click.echo(json.dumps({**asdict(record), "path": where}))
        return
    if not found:
        tell_none(store, is_filtered=bool(status or tenant))
        return
    print_table(COLUMNS, [_row(record, time.time()) for record in found])


def _list_there(client: Client, statuses: Sequence[JobStatus], limit: int, *, as_json: bool) -> None:
    from rushes.cli.tables import print_table

    clips = list(list_of(client, statuses, limit))
    if as_json:
        for clip in clips:
            click.echo(json.dumps(clip.video))
    elif clips:
        print_table(COLUMNS_THERE, [_row_there(clip, time.time()) for clip in clips])
    else:
        click.echo(f"no such jobs at {client.url}" if statuses else f"no jobs yet at {client.url}")


def _row_there(clip: Clip, now: float) -> tuple[str, ...]:
    video, status = clip.video, status_of(clip)
    return (
        clip.id,
        f"{status}: {video['error']['message']}" if status == "failed" else status,
        video["priority"],
        _seconds(now - video["created_at"]),
        _seconds(video["predicted_s"]),
        _seconds(video["actual_s"]),
        _short(video["prompt"]),
    )


def check_place(store: Path) -> None:
    """Raises `click.UsageError` where no folder can ever be, since a file stands in its way."""
    there = next((path for path in (store, *store.parents) if path.exists()), None)
    if there is not None and not there.is_dir():
        raise click.UsageError(f"{store}: there can be no store of jobs: {there} is a file")


def tell_none(store: Path, *, as_json: bool = False, is_filtered: bool = False) -> None:
    """Say that there is no job to list; as JSON lines, nothing is the answer."""
    if not as_json:
        click.echo(f"no such jobs in {store}" if is_filtered else f"no jobs yet in {store}")


def _row(record: JobRecord, now: float) -> tuple[str, ...]:
    status = record.status if record.error is None else f"{record.status}: {record.error}"
    return (
        record.id,
        status,
        record.options.lane,
        record.options.tenant,
        _seconds(now - record.created_at),
        _seconds(record.predicted_s),
        _seconds(record.actual_s),
        _short(record.request.prompt),
    )


def _short(prompt: str) -> str:
    return prompt if len(prompt) <= PROMPT_WIDTH else prompt[: PROMPT_WIDTH - 1] + "…"


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.1f} s" if seconds < 600 else f"{seconds / 60:.0f} min"


@click.command(short_help="Cancel a job.")
@click.argument("job_id")
@store_option
@service_options
def cancel(job_id: str, store: Path, url: str | None, key: str | None) -> None:
    """Cancel a queued or running job; a running one ends at its next step. Prints its status."""
    client = client_of(url, key)
    if client is not None:
        with client:
            status = status_of(client.get(job_id).cancel())
        click.echo(status if status in FINAL else "cancelling")
        return
    with open_workplace(store) as place:
        record = place.jobs.cancel(job_id)
    click.echo(record.status if record.status in FINAL else "cancelling")
