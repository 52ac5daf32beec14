"""The words of the toy's world, which every workload speaks; written by `python -m benchmarks.vocabulary`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("vocabulary.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Noun:
    """One name of a subject in both numbers."""

    one: str
    many: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """One way to say a motion: "spins", "spin", "spinning"."""

    one: str
    many: str
    ing: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """All words that mean one thing, by what they mean; the first is the plainest.

    The order of subjects, and of the keys of each mapping, is that of the judge's classes.

    Attributes:
        subjects: names of each.
        counts: numerals; none for one, which is "a".
        openings: what a caption may begin with.
    """

    subjects: tuple[tuple[Noun, ...], ...]
    colours: tuple[str, ...]
    motions: dict[str, tuple[Verb, ...]]
    backgrounds: dict[str, tuple[str, ...]]
    cameras: dict[str, tuple[str, ...]]
    sizes: dict[str, tuple[str, ...]]
    counts: dict[int, tuple[str, ...]]
    openings: tuple[str, ...]


@cache
def vocabulary() -> Vocabulary:
    """The vocabulary that the package ships."""
    raw = json.loads(FILE.read_text(encoding="utf-8"))
    return Vocabulary(
        subjects=tuple(tuple(Noun(one=one, many=many) for one, many in names) for names in raw["subjects"]),
        colours=tuple(raw["colours"]),
        motions={
            name: tuple(Verb(one=one, many=many, ing=ing) for one, many, ing in verbs)
            for name, verbs in raw["motions"].items()
        },
        backgrounds=_tuples(raw["backgrounds"]),
        cameras=_tuples(raw["cameras"]),
        sizes=_tuples(raw["sizes"]),
        counts={int(count): tuple(words) for count, words in raw["counts"].items()},
        openings=tuple(raw["openings"]),
    )


def _tuples(lists: dict[str, list[str]]) -> dict[str, tuple[str, ...]]:
    return {name: tuple(words) for name, words in lists.items()}
