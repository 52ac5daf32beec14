"""`rushes usage`: GPU-seconds by key and day."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from rushes.cli.keys import json_option, opened
from rushes.cli.remote import client_of, service_options
from rushes.cli.workplace import store_option

COLUMNS = ("day", "tenant", "key", "name", "jobs", "predicted", "actual")


@click.command(short_help="Show what keys used.")
@store_option
@click.option("--days", type=click.IntRange(1, 400), default=30, show_default=True, help="today included")
@click.option("--tenant", help="this one's keys only")
@json_option
@service_options
def usage(
    store: Path, days: int, tenant: str | None, as_json: bool, url: str | None, key: str | None
) -> None:
    """Show GPU-seconds by key and day (UTC), latest day first: as predicted, and as jobs took. With --url
    those of the key's tenant, of all for an admin's."""
    from rushes.cli.tables import print_table

    client = client_of(url, key)
    if client is None:
        found = _rows_here(store, days, tenant)
    else:
        with client:
            found = client.usage(days=days)
    if as_json:
        for row in found:
            click.echo(json.dumps(row))
        return
    rows = [
        (
            row["day"],
            row["tenant"],
            row["key_id"],
            row["key"] or "",
            str(row["num_jobs"]),
            f"{row['predicted_s']:.1f} s",
            f"{row['actual_s']:.1f} s",
        )
        for row in found
    ]
    print_table(COLUMNS, rows)


def _rows_here(store: Path, days: int, tenant: str | None) -> Sequence[Mapping[str, Any]]:
    from rushes.server.usage import usage_json

    with opened(store) as accounts:
        found = accounts.charges.by_day(days=days, now=time.time(), tenant=tenant)
    return [usage_json(row) for row in found]
