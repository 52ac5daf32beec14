"""What a clip shows, and the many sentences that say it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

from rushes.profiling.workloads.vocabulary import vocabulary

T = TypeVar("T")

PATTERNS = (
    "{who} {does} {place}",
    "{who} {doing} {place}",
    "{place}, {who} {does}",
    "{opening} {who} {doing} {place}",
    "there {be} {who} {doing} {place}",
    "{place} {who} {be} {doing}",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What one clip shows: its subject's number and the names of the other values in `Vocabulary`."""

    subject: int
    colour: str
    motion: str
    background: str
    count: int = 1
    size: str = "medium"
    camera: str = "static"

    def classes(self) -> dict[str, int]:
        """The class that the judge should read of each attribute."""
        words = vocabulary()
        return {
            "subject": self.subject,
            "background": list(words.backgrounds).index(self.background),
            "motion": list(words.motions).index(self.motion),
            "colour": words.colours.index(self.colour),
            "count": self.count - 1,
        }


SLOTS = tuple(field.name for field in fields(Scene))
"""What can be changed of a scene."""


def values_of(slot: str) -> tuple[int, ...] | tuple[str, ...]:
    """Every value that a slot can take. Colour is always named: what a plain subject looks like, no caption
    says."""
    words = vocabulary()
    choices: dict[str, tuple[int, ...] | tuple[str, ...]] = {
        "subject": tuple(range(len(words.subjects))),
        "colour": words.colours[1:],
        "motion": tuple(words.motions),
        "background": tuple(words.backgrounds),
        "count": tuple(words.counts),
        "size": tuple(words.sizes),
        "camera": tuple(words.cameras),
    }
    return choices[slot]


def draw_scene(chance: random.Random, base: Scene | None = None) -> Scene:
    """A scene of random subject, colour, motion and background; the rest is as in `base`, or the default."""
    drawn = {slot: chance.choice(values_of(slot)) for slot in ("subject", "colour", "motion", "background")}
    return replace(base, **drawn) if base else Scene(**drawn)  # type: ignore[arg-type]


def edits(scene: Scene, slot: str) -> list[Scene]:
    """The scene with every other value in one slot."""
    others = [value for value in values_of(slot) if value != getattr(scene, slot)]
    return [replace(scene, **{slot: value}) for value in others]  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """Which of the equal words a sentence takes; a number beyond the last word begins again at the first.

    The same wording of an edited scene differs in the words of the edited slot alone.
    """

    pattern: int = 0
    opening: int = 0
    noun: int = 0
    verb: int = 0
    place: int = 0
    camera: int = 0
    size: int = 0
    count: int = 0


def draw_wording(chance: random.Random) -> Wording:
    """A random wording."""
    return Wording(**{field.name: chance.randrange(840) for field in fields(Wording)})


def sentence(scene: Scene, wording: Wording) -> str:
    """The scene in words.

    Example:
        >>> sentence(Scene(subject=0, colour="red", motion="spins", background="beach"), Wording())
        'a red dog spins on the beach'
    """
    words = vocabulary()
    is_many = scene.count > 1
    verb = _pick(words.motions[scene.motion], wording.verb)
    text = _pick(PATTERNS, wording.pattern).format(
        who=_who(scene, wording),
        does=verb.many if is_many else verb.one,
        doing=verb.ing,
        be="are" if is_many else "is",
        place=_pick(words.backgrounds[scene.background], wording.place),
        opening=_pick(words.openings, wording.opening),
    )
    camera = _pick(words.cameras[scene.camera], wording.camera)
    return f"{text}, {camera}" if camera else text


def _who(scene: Scene, wording: Wording) -> str:
    """ "a small red dog", "three cars"."""
    words = vocabulary()
    noun = _pick(words.subjects[scene.subject], wording.noun)
    size = _pick(words.sizes[scene.size], wording.size)
    if scene.count > 1:
        numeral = _pick(words.counts[scene.count], wording.count)
        return " ".join(filter(None, (numeral, size, scene.colour, noun.many)))
    phrase = " ".join(filter(None, (size, scene.colour, noun.one)))
    return f"a {phrase}"


def _pick(choices: Sequence[T], number: int) -> T:
    return choices[number % len(choices)]
