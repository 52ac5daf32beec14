"""A bar per stage on a terminal, silence elsewhere."""

from __future__ import annotations

import io

from rich.console import Console

from rushes.cli.progress import ProgressBars
from rushes.types import Progress


def drawn(*, is_terminal: bool) -> str:
    """What three units of two stages draw."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=is_terminal, width=80)
    with ProgressBars("load toy", console) as bars:
        for stage, units, total in (("denoise", 1, 4), ("denoise", 2, 4), ("vae_decode", 1, 9)):
            bars.update(Progress(stage=stage, units=units, total=total, seconds=0.1))
    return file.getvalue()


def test_every_stage_has_a_bar_with_its_units() -> None:
    text = drawn(is_terminal=True)
    assert "load toy" in text
    last = text[text.rindex("denoise") :]
    assert "2/4" in last
    assert "vae_decode" in last
    assert "1/9" in last


def test_nothing_is_drawn_where_there_is_no_terminal() -> None:
    assert drawn(is_terminal=False) == ""
