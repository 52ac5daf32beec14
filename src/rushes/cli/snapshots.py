"""Flags of what a worker keeps of clips for others to go on from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from rushes.sampling.levels import LEVELS

Command = Callable[..., None]


class NoiseLevels(click.ParamType):  # type: ignore[type-arg]
    """`none`, `default`, or numbers between 0 and 1 with commas between them, as a tuple."""

    name = "levels"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """See `click.ParamType`."""
        if isinstance(value, tuple):
            return value
        named = {"none": (), "default": LEVELS}
        if value in named:
            return named[value]
        try:
            levels = tuple(float(level) for level in value.split(","))
        except ValueError:
            levels = ()
        if not levels or not all(0 < level < 1 for level in levels):
            self.fail(
                f"{value!r} is not none, default or noise levels between 0 and 1, as 0.9,0.8", param, ctx
            )
        return levels


def snapshot_options(command: Command) -> Command:
    """Which latents are kept, and how many bytes of them."""
    snapshots = click.option(
        "--snapshots",
        type=NoiseLevels(),
        default="default",
        show_default=True,
        help="noise levels at which clips are kept for others to go on from: none, default or 0.9,0.8,...",
    )
    size = click.option(
        "--snapshots-gb",
        type=click.FloatRange(0.0),
        default=20.0,
        show_default=True,
        help="bytes of them that stay; the oldest go first",
    )
    return snapshots(size(command))
