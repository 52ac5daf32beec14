"""Sentence patterns: the same words in different orders."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from training.world.phrases import Verb

OPENINGS = (
    "a video of",
    "video of",
    "a clip of",
    "a cartoon of",
    "an animation of",
    "a short film of",
    "cartoon:",
    "we see",
    "a scene with",
    "animated clip of",
    "an illustration of",
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """The chosen words of one caption.

    Attributes:
        who: the noun phrase.
        is_many: whether it is plural.
        verb: the motion, None where it is left out.
        place, camera: empty where nothing is said.
    """

    who: str
    is_many: bool
    verb: Verb | None
    place: str
    camera: str

    @property
    def does(self) -> str:
        """The finite verb phrase: "spins"."""
        if self.verb is None:
            return ""
        return self.verb.many if self.is_many else self.verb.one

    @property
    def doing(self) -> str:
        """The participle: "spinning"."""
        return self.verb.ing if self.verb else ""


def pick(chance: random.Random, choices: Sequence[T]) -> T:
    """One of the choices, each as likely (three times as fast as `Random.choice`)."""
    return choices[int(chance.random() * len(choices))]


def _spaced(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _listed(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _sentence(words: Wording, chance: random.Random) -> str:
    """a red dog spins on the beach, the camera pans left"""
    return _listed(_spaced(words.who, words.does, words.place), words.camera)


def _participle(words: Wording, chance: random.Random) -> str:
    """a red dog spinning on the beach, the camera pans left"""
    return _listed(_spaced(words.who, words.doing, words.place), words.camera)


def _place_first(words: Wording, chance: random.Random) -> str:
    """on the beach, a red dog spins, the camera pans left"""
    return _listed(words.place, _spaced(words.who, words.does), words.camera)


def _opened(words: Wording, chance: random.Random) -> str:
    """a cartoon of a red dog spinning on the beach, the camera pans left"""
    return f"{pick(chance, OPENINGS)} {_participle(words, chance)}"


def _there_is(words: Wording, chance: random.Random) -> str:
    """there is a red dog spinning on the beach, the camera pans left"""
    return f"there {'are' if words.is_many else 'is'} {_participle(words, chance)}"


def _progressive(words: Wording, chance: random.Random) -> str:
    """on the beach a red dog is spinning, the camera pans left"""
    be = ("are" if words.is_many else "is") if words.verb else ""
    return _listed(_spaced(words.place, words.who, be, words.doing), words.camera)


def _camera_first(words: Wording, chance: random.Random) -> str:
    """the camera pans left: a red dog spins on the beach"""
    text = _spaced(words.who, words.does, words.place)
    return f"{words.camera}: {text}" if words.camera else text


def _tags(words: Wording, chance: random.Random) -> str:
    """a red dog, spinning, on the beach, the camera pans left"""
    return _listed(words.who, words.doing, words.place, words.camera)


def _relative(words: Wording, chance: random.Random) -> str:
    """a red dog that spins, on the beach, the camera pans left"""
    who = f"{words.who} that {words.does}" if words.verb else words.who
    return _listed(who, words.place, words.camera)


FULL_TEMPLATES = (_sentence, _participle, _place_first, _opened, _there_is, _progressive)
TEMPLATES = (*FULL_TEMPLATES, _sentence, _sentence, _participle, _opened, _camera_first, _tags, _relative)


def punctuated(text: str, chance: random.Random) -> str:
    """Half of the texts as they are, the others with a capital and a full stop, say, or all in capitals."""
    number = chance.random()
    if number < 0.5:
        return text
    if number < 0.55:
        return text.upper()
    text = text[0].upper() + text[1:]
    if number < 0.9:
        return f"{text}."
    return f"{text}!" if number < 0.93 else text
