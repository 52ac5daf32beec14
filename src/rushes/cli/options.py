"""Flags that several commands share, each written once."""

from __future__ import annotations

from collections.abc import Callable

import click

from rushes.pipelines.rules import FIELDS, MODES

Command = Callable[..., None]

model_option = click.option(
    "--model", "name", default="toy", show_default=True, help="a known model or a checkpoint folder"
)


def request_options(command: Command) -> Command:
    """What a request may say beside its prompt. None has a default here: the model's rules hold it."""
    named = [
        click.option("--preset", help="named sampling settings, over which the fields below win"),
        click.option("--negative-prompt", help="what to steer away from, instead of the model's own"),
    ]
    fields = [
        click.option(f"--{field.name.replace('_', '-')}", field.name, type=field.type, help=field.help)
        for field in FIELDS.values()
    ]
    mode = click.option("--mode", type=click.Choice(MODES), help="causal: latent frame by latent frame")
    return _with([*named, *fields, mode], command)


def device_options(command: Command) -> Command:
    """Where networks run, and in what."""
    device = click.option("--device", help="cpu, cuda, cuda:1, ...; the best there is when not given")
    dtype = click.option("--dtype", help="float32, bfloat16 or float16; what suits the device when not given")
    return _with([device, dtype], command)


def _with(options: list[Callable[[Command], Command]], command: Command) -> Command:
    """In the order in which help shows them."""
    for option in reversed(options):
        command = option(command)
    return command
