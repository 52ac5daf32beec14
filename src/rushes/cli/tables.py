"""Tables on stdout: as wide as a terminal, unshortened in a pipe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable

if TYPE_CHECKING:
    from rushes.profiling.table import Table

PIPE_WIDTH = 200  # columns, where no terminal says otherwise


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows of plain text (no markup is read) under a header."""
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console = Console(markup=False, highlight=False, width=PIPE_WIDTH)
    table = RichTable(*header, box=SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def show_table(table: Table) -> None:
    """Title, rows, remarks."""
    click.echo(table.title)
    if table.rows:
        print_table(table.header, table.rows)
    for remark in table.remarks:
        click.echo(remark)
