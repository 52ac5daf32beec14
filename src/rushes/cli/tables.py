"""Tables on stdout: as wide as a terminal, unshortened in a pipe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

PIPE_WIDTH = 200  # columns, where no terminal says otherwise


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows of plain text (no markup is read) under a header."""
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console = Console(markup=False, highlight=False, width=PIPE_WIDTH)
    table = Table(*header, box=SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    console.print(table)
