"""Writes the words of the workloads from the toy's world: `python -m benchmarks.vocabulary`.

The package does not import training/, so it ships them as a file; a test holds the two together.
"""

import json
from pathlib import Path
from typing import Any

from training.world import phrases
from training.world.attributes import BACKGROUNDS, CAMERAS, COLOURS, COUNTS, MOTIONS, SIZES
from training.world.subjects import Subject, subjects
from training.world.templates import OPENINGS

FILE = Path("src/rushes/profiling/workloads/vocabulary.json")


def vocabulary() -> dict[str, Any]:
    """Every word; the order of each list of values is that of the judge's classes."""
    return {
        "subjects": [_subject(subject) for subject in subjects()],
        "colours": list(COLOURS),
        "motions": {
            name: [[verb.one, verb.many, verb.ing] for verb in phrases.VERBS[name]] for name in MOTIONS
        },
        "backgrounds": {name: list(phrases.PLACES[name]) for name in BACKGROUNDS},
        "cameras": {name: list(phrases.CAMERA_WORDS[name]) for name in CAMERAS},
        "sizes": {name: [word.strip() for word in phrases.SIZE_WORDS[name]] for name in SIZES},
        "counts": {str(count): _unique(phrases.COUNT_WORDS.get(count, ())) for count in COUNTS},
        "openings": list(OPENINGS),
    }


def _subject(subject: Subject) -> list[list[str]]:
    """Its names in both numbers, the canonical one first."""
    return [[noun.one, noun.many] for noun in subject.training]


def _unique(words: tuple[str, ...]) -> list[str]:
    return list(dict.fromkeys(words))


def text() -> str:
    """The file: one value a line."""
    parts = []
    for name, values in vocabulary().items():
        is_map = isinstance(values, dict)
        rows = (
            [f"  {json.dumps(key)}: {json.dumps(each)}" for key, each in values.items()]
            if is_map
            else [f"  {json.dumps(each)}" for each in values]
        )
        opening, closing = "{}" if is_map else "[]"
        parts.append(f" {json.dumps(name)}: {opening}\n" + ",\n".join(rows) + f"\n {closing}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
