"""Scenes in words: varied captions for training, and full ones that name every attribute for scoring."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.world.attributes import BACKGROUNDS, CAMERAS, COLOURS, MOTIONS, NATURAL, NO_SUBJECT, SIZES
from training.world.phrases import (
    CAMERA_WORDS,
    COUNT_WORDS,
    PLACES,
    SIZE_WORDS,
    TRAVEL,
    TRAVEL_SHARE,
    VERBS,
    Verb,
)
from training.world.scenes import Scenes
from training.world.subjects import Noun, subjects

CANONICAL_SHARE = 0.4  # of captions that call the subject by its canonical noun
NO_PLACE_SHARE = 0.07
NO_MOTION_SHARE = 0.05
OPENINGS = (
    "a video of", "video of", "a clip of", "a cartoon of", "an animation of", "a short film of", "cartoon:", "we see",
    "a scene with", "animated clip of", "an illustration of",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """The chosen words of one caption. `place`, `camera` and `verb` are empty or None where nothing is said."""

    who: str
    is_many: bool
    verb: Verb | None
    place: str
    camera: str

    @property
    def does(self) -> str:
        """The finite verb phrase."""
        return (self.verb.many if self.is_many else self.verb.one) if self.verb else ""


def captions(scenes: Scenes, rng: np.random.Generator) -> list[str]:
    """One caption per scene, each from words, order and punctuation chosen by `rng`.

    A colour, a size, a count and a camera move that differ from the default are always named, so that leaving
    them out means the default; the place and the motion are left out now and then.
    """
    chance = random.Random(int(rng.integers(2**62)))
    return [_caption(row, chance) for row in _rows(scenes)]


def full_captions(scenes: Scenes, rng: np.random.Generator, *, held_out_nouns: bool = False) -> list[str]:
    """One caption per scene that names every attribute, the direction of travel included.

    Args:
        held_out_nouns: call subjects by the names that training never uses, where they have one.
    """
    chance = random.Random(int(rng.integers(2**62)))
    return [_full_caption(row, chance, held_out_nouns) for row in _rows(scenes)]


def canonical_captions(scenes: Scenes) -> list[str]:
    """The plainest full caption of each scene, the same on every call."""
    return [_sentence(_canonical(row)) for row in _rows(scenes)]


def caption(scene: Scenes, rng: np.random.Generator) -> str:
    """`captions` of one scene (a table of length 1)."""
    (text,) = captions(scene, rng)
    return text


def full_caption(scene: Scenes, rng: np.random.Generator) -> str:
    """`full_captions` of one scene (a table of length 1)."""
    (text,) = full_captions(scene, rng)
    return text


FIELDS = ("subject", "subject2", "count", "colour", "colour2", "size", "motion", "background", "camera")
Row = tuple[int, ...]


def _rows(scenes: Scenes) -> list[Row]:
    return list(zip(*(getattr(scenes, name).tolist() for name in FIELDS), strict=True))


def _pick(chance: random.Random, choices: Sequence):
    return choices[int(chance.random() * len(choices))]


def _caption(row: Row, chance: random.Random) -> str:
    motion, background, camera = row[6:]
    verb = None
    if chance.random() >= NO_MOTION_SHARE:
        is_travel = motion < 2 and chance.random() < TRAVEL_SHARE
        verb = _pick(chance, TRAVEL if is_travel else VERBS[MOTIONS[motion]])
    says_place = chance.random() >= NO_PLACE_SHARE
    wording = Wording(
        who=_who(row, chance, _training_noun),
        is_many=row[2] > 1,
        verb=verb,
        place=_pick(chance, PLACES[BACKGROUNDS[background]]) if says_place else "",
        camera=_pick(chance, CAMERA_WORDS[CAMERAS[camera]]),
    )
    return _punctuated(_pick(chance, TEMPLATES)(wording, chance), chance)


def _full_caption(row: Row, chance: random.Random, held_out_nouns: bool) -> str:
    motion, background, camera = row[6:]
    wording = Wording(
        who=_who(row, chance, _held_out_noun if held_out_nouns else _training_noun),
        is_many=row[2] > 1,
        verb=_pick(chance, VERBS[MOTIONS[motion]]),
        place=_pick(chance, PLACES[BACKGROUNDS[background]]),
        camera=_pick(chance, CAMERA_WORDS[CAMERAS[camera]]),
    )
    return _pick(chance, FULL_TEMPLATES)(wording, chance)


def _canonical(row: Row) -> Wording:
    motion, background, camera = row[6:]
    first = random.Random(0)
    return Wording(
        who=_who(row, first, lambda subject, chance: subjects()[subject].training[0], is_plain=True),
        is_many=row[2] > 1,
        verb=VERBS[MOTIONS[motion]][0],
        place=PLACES[BACKGROUNDS[background]][0],
        camera=CAMERA_WORDS[CAMERAS[camera]][0],
    )


def _training_noun(subject: int, chance: random.Random) -> Noun:
    names = subjects()[subject].training
    return names[0] if chance.random() < CANONICAL_SHARE else _pick(chance, names)


def _held_out_noun(subject: int, chance: random.Random) -> Noun:
    names = subjects()[subject].held_out or subjects()[subject].training
    return _pick(chance, names)


def _who(row: Row, chance: random.Random, noun_of, *, is_plain: bool = False) -> str:
    """The noun phrase: "a small red dog", "three cars", "a dog and a blue cat"."""
    subject, subject2, count, colour, colour2, size = row[:6]
    sizes = SIZE_WORDS[SIZES[size]]
    looks = sizes[0] if is_plain else _pick(chance, sizes)
    if subject2 != NO_SUBJECT:
        first, second = noun_of(subject, chance).one, noun_of(subject2, chance).one
        return f"{_article(_described(first, '', colour))} and {_article(_described(second, '', colour2))}"
    noun = noun_of(subject, chance)
    if count == 1:
        return _article(_described(noun.one, looks, colour))
    number = COUNT_WORDS[count][0] if is_plain else _pick(chance, COUNT_WORDS[count])
    return f"{number} {_described(noun.many, looks, colour)}"


def _described(noun: str, size: str, colour: int) -> str:
    words = (size, "" if colour == NATURAL else COLOURS[colour], noun)
    return " ".join(word for word in words if word)


def _article(phrase: str) -> str:
    is_vowel = phrase[0] in "aeiou" and not phrase.startswith(("uni", "ufo", "one"))
    return f"an {phrase}" if is_vowel else f"a {phrase}"


def _joined(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _sentence(words: Wording, chance: random.Random | None = None) -> str:
    """a red dog spins on the beach, the camera pans left"""
    text = _joined(words.who, words.does, words.place)
    return f"{text}, {words.camera}" if words.camera else text


def _place_first(words: Wording, chance: random.Random) -> str:
    """on the beach, a red dog spins, the camera pans left"""
    return ", ".join(part for part in (words.place, _joined(words.who, words.does), words.camera) if part)


def _participle(words: Wording, chance: random.Random) -> str:
    """a red dog spinning on the beach"""
    text = _joined(words.who, words.verb.ing if words.verb else "", words.place)
    return f"{text}, {words.camera}" if words.camera else text


def _opened(words: Wording, chance: random.Random) -> str:
    """a cartoon of a red dog spinning on the beach"""
    return f"{_pick(chance, OPENINGS)} {_participle(words, chance)}"


def _there_is(words: Wording, chance: random.Random) -> str:
    """there is a red dog spinning on the beach"""
    return f"there {'are' if words.is_many else 'is'} {_participle(words, chance)}"


def _progressive(words: Wording, chance: random.Random) -> str:
    """on the beach a red dog is spinning"""
    doing = f"{'are' if words.is_many else 'is'} {words.verb.ing}" if words.verb else ""
    text = _joined(words.place, words.who, doing)
    return f"{text}, {words.camera}" if words.camera else text


def _camera_first(words: Wording, chance: random.Random) -> str:
    """the camera pans left: a red dog spins on the beach"""
    text = _joined(words.who, words.does, words.place)
    return f"{words.camera}: {text}" if words.camera else text


def _tags(words: Wording, chance: random.Random) -> str:
    """a red dog, spinning, on the beach"""
    parts = (words.who, words.verb.ing if words.verb else "", words.place, words.camera)
    return ", ".join(part for part in parts if part)


def _relative(words: Wording, chance: random.Random) -> str:
    """a red dog that spins, on the beach"""
    text = f"{words.who} that {words.does}" if words.verb else words.who
    return ", ".join(part for part in (text, words.place, words.camera) if part)


TEMPLATES = (
    _sentence, _sentence, _sentence, _participle, _participle, _place_first, _opened, _opened, _there_is, _progressive,
    _camera_first, _tags, _relative,
)  # fmt: skip
FULL_TEMPLATES = (_sentence, _participle, _place_first, _opened, _there_is, _progressive)


def _punctuated(text: str, chance: random.Random) -> str:
    number = chance.random()
    if number < 0.5:
        return text
    if number < 0.55:
        return text.upper()
    text = text[0].upper() + text[1:]
    if number < 0.9:
        return f"{text}."
    return f"{text}!" if number < 0.93 else text
