"""The subjects of the toy world: one sprite and several names each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ASSETS = Path(__file__).resolve().parent.parent / "assets"


@dataclass(frozen=True, slots=True, kw_only=True)
class Noun:
    """One name of a subject in both numbers."""

    one: str
    many: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One sprite and its names.

    Attributes:
        id: row of the sprite sheet, and the class index of the judge.
        emoji: code point of the Noto glyph, as in "U+1F415".
        noun: the canonical noun, singular.
        faces_left: where the glyph looks; None where it makes no difference.
        colour: the one of `attributes.COLOURS` that its plain look already is: a heart is red, and no second
            kind of red heart exists. None for all the others.
        training: names that captions of the training split use, the canonical one first.
        held_out: names used by `prompts.synonym_prompts` alone, so that unseen synonyms can be scored.
    """

    id: int
    emoji: str
    noun: str
    faces_left: bool | None
    colour: str | None
    training: tuple[Noun, ...]
    held_out: tuple[Noun, ...]


@cache
def subjects() -> tuple[Subject, ...]:
    """All subjects in the order of the sprite sheet."""
    rows = json.loads((ASSETS / "subjects.json").read_text(encoding="utf-8"))
    return tuple(_subject(row) for row in rows)


def _subject(row: dict[str, Any]) -> Subject:
    return Subject(
        id=row["id"],
        emoji=row["emoji"],
        noun=row["noun"],
        faces_left=row["faces_left"],
        colour=row["colour"],
        training=tuple(Noun(**noun) for noun in row["training"]),
        held_out=tuple(Noun(**noun) for noun in row["held_out"]),
    )
