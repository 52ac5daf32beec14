"""`rushes usage`: GPU-seconds by key and day."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from rushes.cli.keys import json_option, opened
from rushes.cli.workplace import store_option

COLUMNS = ("day", "tenant", "key", "name", "jobs", "predicted", "actual")


@click.command(short_help="Show what keys used.")
@store_option
@click.option("--days", type=click.IntRange(1, 400), default=30, show_default=True, help="today included")
@click.option("--tenant", help="this one's keys only")
@json_option
def usage(store: Path, days: int, tenant: str | None, as_json: bool) -> None:
    """Show GPU-seconds by key and day (UTC), latest day first: as predicted, and as jobs took."""
    from rushes.cli.tables import print_table

    with opened(store) as accounts:
        found = accounts.charges.by_day(days=days, now=time.time(), tenant=tenant)
    if as_json:
        from rushes.server.usage import usage_json

        for row in found:
            click.echo(json.dumps(usage_json(row)))
        return
    rows = [
        (
            row.day,
            row.tenant,
            row.key_id,
            row.key or "",
            str(row.num_jobs),
            f"{row.predicted_s:.1f} s",
            f"{row.actual_s:.1f} s",
        )
        for row in found
    ]
    print_table(COLUMNS, rows)
