"""`rushes generate`: from a prompt to a file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import click

import rushes
from rushes.cli.options import device_options, model_option, request_options
from rushes.cli.plans import plan_of_file, plan_option
from rushes.errors import InvalidRequest, OutputError, did_you_mean
from rushes.pipelines.rules import RULES, PipelineRules, folder_fields, load_rules, plan_fields, resolve

if TYPE_CHECKING:
    from rushes.pipelines.model import Model
    from rushes.types import (
        Done,
        Frames,
        GenerateRequest,
        JobEvent,
        JobOptions,
        Preview,
        Progress,
        VideoSpec,
    )


@click.command()
@click.argument("prompt", required=False)
@click.option(
    "--prompt-file",
    type=click.File(encoding="utf-8"),
    help="read the prompt from a file, - for standard input",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("video.mp4"),
    show_default=True,
    help=".mp4, .webm, .gif, .webp, or a folder of PNG files (.png-folder, or no ending)",
)
@model_option
@request_options
@device_options
@plan_option
@click.option("--preview", is_flag=True, help="keep OUTPUT.preview.webp up to date while denoising")
@click.option(
    "--sheet", type=click.Path(path_type=Path), help="also write a contact sheet, six frames in a row (.png)"
)
@click.option("--json", "as_json", is_flag=True, help="print one JSON object instead of the path")
def generate(
    prompt: str | None,
    prompt_file: IO[str] | None,
    output: Path,
    name: str,
    device: str | None,
    dtype: str | None,
    plan_file: Path | None,
    preview: bool,
    sheet: Path | None,
    as_json: bool,
    **fields: Any,
) -> None:
    """Make a clip from PROMPT. The path is printed last.

    Defaults of the sampling fields are the model's: `rushes models NAME` shows them.
    """
    from rushes.cli.progress import ProgressBars
    from rushes.types import JobOptions

    given = {field: value for field, value in fields.items() if value is not None}
    prompt = read_prompt(prompt, prompt_file)
    # Before the weights are read, so that a mistake is told at once.
    rules = rules_of(name)
    plan = plan_of_file(plan_file, rules.name)
    resolve(rules, prompt, **given)
    check_paths(output, sheet)
    with ProgressBars(f"load {name}") as bars:
        model = rushes.load(name, device=device, dtype=dtype, plan=plan)
        request = model.job(prompt, **given).request
        if not as_json:  # which holds them
            tell_notes(request)
        options = JobOptions(lane="interactive", preview_every=int(preview))
        done = write_clip(model, request, options, output, bars.update, sheet)
    report(done, model.notes, output, as_json=as_json)


def tell_notes(request: GenerateRequest) -> None:
    """Say on stderr what the model will probably not do as asked."""
    from rushes.pipelines.notes import notes_on

    tell_all(note.message for note in notes_on(request))


def tell_all(notes: Iterable[str]) -> None:
    """The same of notes that somebody else has made."""
    for note in notes:
        click.echo(f"rushes: note: {note}", err=True)


def check_paths(output: Path, sheet: Path | None) -> None:
    """Raises `click.UsageError` when no clip or no sheet can be written there, before any is made."""
    from rushes.stages.contact_sheet import check_sheet
    from rushes.stages.video_encode import check_output

    try:
        check_output(output)
        if sheet is not None:
            check_sheet(sheet)
    except OutputError as error:
        raise click.UsageError(str(error)) from error


def rules_of(name: str) -> PipelineRules:
    """The rules of a known model, or of the model in a checkpoint folder. No weights are read.

    Raises:
        InvalidRequest: neither a known model nor a folder.
        CheckpointError: a folder, but of nothing that can be run.
    """
    from rushes.models.checkpoint import open_checkpoint

    if name in RULES:
        return load_rules(name)
    if not os.path.isdir(name):
        known = RULES.names()
        rule = f"choose from {', '.join(known)}, or a checkpoint folder, which this is not"
        raise InvalidRequest("model", f"unknown {name!r}{did_you_mean(name, known)}; {rule}")
    return load_rules(open_checkpoint(Path(name)).pipeline)


def request_of(
    name: str, prompt: str, given: Mapping[str, Any], plan_file: Path | None = None
) -> GenerateRequest:
    """The request that `Model.job` would make of a known model or a checkpoint folder, loaded with this plan.
    No weights are read. Raises as `rules_of`, `plan_of_file` and `resolve`."""
    from rushes.models.checkpoint import open_checkpoint

    rules = rules_of(name)
    decided = {} if name in RULES else open_checkpoint(Path(name)).decided
    planned = plan_fields(plan_of_file(plan_file, rules.name).fields, given.get("mode"))
    fields = {**planned, **given}
    return resolve(rules, prompt, **{**folder_fields(rules, decided, fields.get("preset")), **fields})


def read_prompt(prompt: str | None, file: IO[str] | None) -> str:
    """The prompt as an argument or from a file, exactly one of them. Raises `click.UsageError`."""
    if (prompt is None) == (file is None):
        raise click.UsageError("give either PROMPT or --prompt-file")
    if file is None:
        return prompt or ""
    try:
        return file.read().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise click.UsageError(
            f"{file.name}: not UTF-8 text ({error.reason} at byte {error.start})"
        ) from error


def write_clip(
    model: Model,
    request: GenerateRequest,
    options: JobOptions,
    output: Path,
    on_progress: Callable[[Progress], None],
    sheet: Path | None = None,
) -> Done:
    """Run one job on an engine in this process, its frames going to `output` as they come, previews beside
    it. The sheet follows when the clip is complete: should it fail, the clip stays.
    """
    from rushes.engine.client import result
    from rushes.engine.local import LocalEngine
    from rushes.stages.contact_sheet import ContactSheet
    from rushes.stages.video_encode import VideoWriter

    video = request.video
    row = ContactSheet(video.num_frames)

    def write(frames: Frames) -> None:
        writer.write(frames.frames)
        row.add(frames.start, frames.frames)

    with (
        VideoWriter(output, **asdict(video)) as writer,
        preview_file(output) as path,
        LocalEngine(model, on_preview=lambda _, preview: save_preview(preview, video, path)) as engine,
    ):
        job_id = engine.submit(request, options, on_frames=write)
        for event in engine.events(job_id):
            if event.kind == "progress":
                on_progress(progress_of(event))
        result(engine, job_id)
    if sheet is not None:
        row.save(sheet)
    return done_of(request, event)


def progress_of(event: JobEvent) -> Progress:
    """The progress that a `progress` event holds."""
    from rushes.types import Progress

    return Progress(**cast(dict[str, Any], event.data))


def done_of(request: GenerateRequest, event: JobEvent) -> Done:
    """What a `completed` event tells of a request."""
    from rushes.types import Done, ForwardCounts, Timing

    data = cast(dict[str, Any], event.data)
    return Done(
        request=request,
        timings=tuple(Timing(**timing) for timing in data["timings"]),
        forwards=ForwardCounts(**data["forwards"]),
    )


@contextmanager
def preview_file(output: Path) -> Iterator[Path]:
    """Where previews of a clip go, `x.preview.webp` beside `x.mp4`; removed if the clip fails."""
    path = output.with_name(f"{output.stem}.preview.webp")
    try:
        yield path
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def save_preview(preview: Preview, video: VideoSpec, path: Path) -> None:
    """Write a preview at the clip's size and speed; a viewer that reloads never meets half a file."""
    from rushes.stages.video_encode import save_video

    num_frames, height, width = preview.frames.shape[:3]
    frames = preview.frames.repeat(video.height // height, axis=1).repeat(video.width // width, axis=2)
    save_video(frames, max(1, round(num_frames * video.fps / video.num_frames)), path)


def report(done: Done, notes: Sequence[str], output: Path, *, as_json: bool) -> None:
    """What was made: the path on stdout, the rest on stderr; or everything as one JSON object on stdout."""
    from rushes.pipelines.notes import notes_on

    request = done.request
    if as_json:
        timings = [asdict(timing) for timing in done.timings]
        made = {
            "path": str(output),
            "request": asdict(request),
            "timings": timings,
            "forwards": asdict(done.forwards),
            "notes": [*notes, *(note.message for note in notes_on(request))],
        }
        click.echo(json.dumps(made))
        return
    for note in notes:
        click.echo(f"rushes: note: {note}", err=True)
    video = request.video
    size = f"{video.num_frames} frames of {video.width}x{video.height} at {video.fps} fps"
    stages = ", ".join(f"{timing.stage} {timing.seconds:.1f} s" for timing in done.timings)
    forwards = f"{done.forwards.conditional} + {done.forwards.unconditional} forwards"
    click.echo(f"rushes: {size}, seed {request.sampling.seed}; {stages}; {forwards}", err=True)
    click.echo(os.fsencode(output))
