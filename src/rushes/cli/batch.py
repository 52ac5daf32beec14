"""`rushes batch`: many clips from a template and a table."""

from __future__ import annotations

import csv
import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from rushes.cli.generate import tell_all
from rushes.cli.jobs import fetch
from rushes.cli.options import field_options
from rushes.cli.remote import client_of, service_options
from rushes.cli.workplace import open_workplace, store_option
from rushes.errors import RushesError

if TYPE_CHECKING:
    from rushes.client import Client

POLL_S = 0.5
PAGE = 500


class Desk(Protocol):
    """Where batches are taken: a service, or a folder of jobs."""

    def estimate(self) -> Mapping[str, Any]:
        """What it would take."""

    def create(self) -> str:
        """The batch's id: the same for the same batch."""

    def batch(self, batch_id: str, after: int = 0) -> Mapping[str, Any]:
        """How it stands, and a page of its rows."""

    def save(self, video_id: str, path: Path) -> None:
        """A completed row's clip to a file."""


@click.command(short_help="Queue a clip for each row of a table.")
@click.argument("template")
@click.option(
    "--rows",
    "table",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="a .csv with a header, or a .jsonl",
)
@store_option
@service_options
@click.option("--model", "name", help="the first that is served, when not given")
@click.option("--preset", help="named sampling settings, over which the fields below win")
@field_options
@click.option("--yes", is_flag=True, help="do not ask whether the estimate is all right")
@click.option("--watch", is_flag=True, help="wait for the end")
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="wait, and save each clip there by its row: 0001.mp4, ...",
)
def batch(
    template: str,
    table: Path,
    store: Path,
    url: str | None,
    key: str | None,
    name: str | None,
    yes: bool,
    watch: bool,
    output: Path | None,
    **fields: Any,
) -> None:
    """Fill TEMPLATE's {name}s from each row's columns and queue the clips in the batch lane. A column that is
    a field, such as seed, is that clip's. Prints the batch's id.

    The same command again goes on with the same batch: nothing is made twice, and only what is not there is
    saved.
    """
    rows = read_rows(table)
    given = {"model": name, **fields}
    body = {"template": template, "rows": rows, **{k: v for k, v in given.items() if v is not None}}
    with _desk(client_of(url, key), store, body) as desk:
        estimate = desk.estimate()
        click.echo(f"rushes: {_told(estimate)}", err=True)
        tell_all(estimate.get("notes", ()))  # an older service tells none
        if not (yes or _is_wanted()):
            click.echo("rushes: nothing was queued", err=True)
            raise click.exceptions.Exit(1)
        batch_id = desk.create()
        click.echo(batch_id)
        if watch or output is not None:
            _follow(desk, batch_id, output)


def _is_wanted() -> bool:
    """What is answered; no for Ctrl-C, and where nobody can answer."""
    try:
        return click.confirm("Queue them?", err=True)
    except click.Abort:
        click.echo(err=True)
        return False


def read_rows(table: Path) -> list[dict[str, Any]]:
    """The rows of a .csv or a .jsonl. Numbers of a .csv become numbers where a field is one; an empty cell is
    none. Raises `click.UsageError`."""
    try:
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{table}: cannot be read as UTF-8 text ({error})") from error
    readers = {".csv": _csv, ".jsonl": _jsonl}
    if table.suffix not in readers:
        raise click.UsageError(f"{table}: must end in {' or '.join(readers)}, which say how it is read")
    rows = readers[table.suffix](table, text)
    if not rows:
        raise click.UsageError(f"{table}: has no rows")
    return rows


def _csv(table: Path, text: str) -> list[dict[str, Any]]:
    from rushes.pipelines.rules import FIELDS
    from rushes.server.asks import read_form

    found = []
    reader = csv.DictReader(text.splitlines(), strict=True)
    try:
        for number, row in enumerate(reader, start=1):
            if None in row or None in row.values():
                raise click.UsageError(f"{table}: row {number} has not as many cells as the header")
            found.append(read_form({name: cell for name, cell in row.items() if cell != ""}, FIELDS))
    except csv.Error as error:
        raise click.UsageError(f"{table}: is not a table ({error})") from error
    return found


def _jsonl(table: Path, text: str) -> list[dict[str, Any]]:
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise click.UsageError(f"{table}: line {number} is not JSON ({error})") from error
        if not isinstance(row, dict):
            raise click.UsageError(f"{table}: line {number} must be an object, got {type(row).__name__}")
        found.append(row)
    return found


@contextmanager
def _desk(client: Client | None, store: Path, body: Mapping[str, Any]) -> Iterator[Desk]:
    if client is not None:
        with client:
            yield RemoteDesk(client, body)
        return
    from rushes.cli.batch_here import LocalDesk

    with open_workplace(store) as place, LocalDesk.over(place, body, fetch) as desk:
        yield desk


class RemoteDesk:
    """A service."""

    def __init__(self, client: Client, body: Mapping[str, Any]) -> None:
        self._client, self._body = client, body

    def estimate(self) -> Mapping[str, Any]:
        """See `Desk`."""
        return self._client.estimate_batch(**self._body)

    def create(self) -> str:
        """See `Desk`."""
        made = self._client.create_batch(**self._body, idempotency_key=key_of_batch(self._body))
        return str(made["id"])

    def batch(self, batch_id: str, after: int = 0) -> Mapping[str, Any]:
        """See `Desk`."""
        return self._client.batch(batch_id, after=after, limit=PAGE)

    def save(self, video_id: str, path: Path) -> None:
        """See `Desk`."""
        self._client.get(video_id).save(path)


def key_of_batch(body: Mapping[str, Any]) -> str:
    """The same for the same command over the same table."""
    data = json.dumps(body, sort_keys=True).encode()
    return f"batch-{hashlib.blake2b(data, digest_size=16).hexdigest()}"


def _told(estimate: Mapping[str, Any]) -> str:
    total = estimate["total"]
    if estimate["predicted_s"] is None:
        return f"{total} clips; no worker is there to tell what they take"
    workers = estimate["num_workers"]
    where = "1 worker" if workers == 1 else f"{workers} workers"
    ready = f"ready in {estimate['eta_s']:.0f} s with {where}"
    return f"{total} clips, {estimate['predicted_s']:.1f} GPU-seconds, {ready}"


def _follow(desk: Desk, batch_id: str, output: Path | None) -> None:
    """Show a batch's way to its end, saving what is there. Raises `RushesError` when rows have failed."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
    saved: set[int] = set()
    console = Console(stderr=True)
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    with bars:
        task = bars.add_task("clips", total=None)
        while True:
            found = desk.batch(batch_id)
            if output is not None:
                _save_new(desk, batch_id, output, saved)
            ended = sum(found["counts"][name] for name in ("completed", "failed", "cancelled", "expired"))
            bars.update(task, total=found["total"], completed=ended)
            if found["status"] not in ("in_progress", "cancelling"):
                break
            time.sleep(POLL_S)
    counts = Counter(found["counts"])
    click.echo(f"rushes: {counts['completed']} of {found['total']} clips are ready", err=True)
    if counts["completed"] < found["total"]:
        raise RushesError(_failures(desk, batch_id))


def _save_new(desk: Desk, batch_id: str, output: Path, saved: set[int]) -> None:
    for row in _rows(desk, batch_id):
        path = output / f"{row['row']:04d}.mp4"
        if row["status"] == "completed" and row["row"] not in saved:
            if not path.exists():
                desk.save(row["video_id"], path)
            saved.add(row["row"])


def _failures(desk: Desk, batch_id: str) -> str:
    rows: Sequence[Mapping[str, Any]] = [row for row in _rows(desk, batch_id) if row["status"] != "completed"]
    if not rows:  # it was cancelled before any was queued
        return "no row has a clip"
    why = rows[0]["status"] if rows[0]["error"] is None else rows[0]["error"]["message"]
    return f"{len(rows)} rows have no clip, the first of them row {rows[0]['row']}: {why}"


def _rows(desk: Desk, batch_id: str) -> Iterator[Mapping[str, Any]]:
    after = 0
    while True:
        page = desk.batch(batch_id, after)
        yield from page["rows"]
        if not page["has_more"]:
            return
        after = page["rows"][-1]["row"]
