"""`rushes models`: what is known about each model, from its rules."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click

from rushes.pipelines.notes import vocabulary
from rushes.pipelines.rules import RULES, PipelineRules, load_rules

SETTINGS = ("num_inference_steps", "solver", "flow_shift", "guidance_high", "guidance_low")
"""Of a preset, that are shown where the model has them."""


@click.command(short_help="List the models, or show one.")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="print one JSON object")
def models(name: str | None, as_json: bool) -> None:
    """List the models, or show the fields, defaults and presets of one."""
    names = RULES.names() if name is None else (name,)
    known = [load_rules(each) for each in names]
    if as_json:
        click.echo(json.dumps({rules.name: describe(rules) for rules in known}))
    elif name is None:
        show_list(known)
    else:
        show_one(known[0])


def describe(rules: PipelineRules) -> dict[str, Any]:
    """The rules of one model as JSON data."""
    defaults = rules.defaults()
    return {
        "title": rules.title,
        "checkpoints": list(rules.models),
        "fields": {
            name: {"default": defaults[name], "rule": field.rule, "help": field.help}
            for name, field in rules.fields.items()
        },
        "presets": {name: asdict(preset) for name, preset in rules.presets.items()},
        "default_preset": rules.default_preset,
        "negative_prompt": rules.negative_prompt,
        "vocabulary": vocabulary() if rules.has_small_vocabulary else None,
    }


def show_list(known: list[PipelineRules]) -> None:
    """One line for each model."""
    from rushes.cli.tables import print_table

    rows = [
        (
            rules.name,
            f"{rules.video.width}x{rules.video.height}",
            f"{rules.video.num_frames} at {rules.video.fps} fps",
            ", ".join(rules.presets),
            rules.title,
        )
        for rules in known
    ]
    print_table(("model", "size", "frames", "presets", "what it is"), rows)


def show_one(rules: PipelineRules) -> None:
    """Every field and preset of a model."""
    from rushes.cli.tables import print_table

    click.echo(f"{rules.name}: {rules.title}\n")
    defaults = rules.defaults()
    print_table(
        ("field", "default", "accepts", "meaning"),
        [(name, _shown(defaults[name]), field.rule, field.help) for name, field in rules.fields.items()],
    )
    settings = [name for name in SETTINGS if name in rules.fields]
    print_table(
        ("preset", "what it is", *settings),
        [
            (name, preset.title, *(_shown(getattr(preset, setting)) for setting in settings))
            for name, preset in rules.presets.items()
        ],
    )
    if rules.has_small_vocabulary:
        click.echo("What it knows, most of it by other names too:")
        print_table(("kind", "words"), [(kind, ", ".join(words)) for kind, words in vocabulary().items()])


def _shown(value: object) -> str:
    return "random" if value is None else str(value)
