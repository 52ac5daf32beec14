"""Scenes in words: varied captions for training, and full ones that name every attribute for scoring."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, fields

from training.world.attributes import BACKGROUNDS, CAMERAS, COLOURS, MOTIONS, NATURAL, NO_SUBJECT, SIZES
from training.world.phrases import CAMERA_WORDS, COUNT_WORDS, PLACES, SIZE_WORDS, TRAVEL, TRAVEL_SHARE, VERBS
from training.world.scenes import Scenes
from training.world.subjects import Noun, Subject, subjects
from training.world.templates import FULL_TEMPLATES, TEMPLATES, Wording, pick, punctuated

CANONICAL_SHARE = 0.4  # of captions that call the subject by its canonical noun
NO_PLACE_SHARE = 0.07
NO_MOTION_SHARE = 0.05
NO_OWN_COLOUR_SHARE = 0.6  # of captions of a subject in the colour of its plain look


@dataclass(frozen=True, slots=True)
class Row:
    """What a caption may tell of one scene; fields as in `Scenes`."""

    subject: int
    subject2: int
    count: int
    colour: int
    colour2: int
    size: int
    motion: int
    background: int
    camera: int


COLUMNS = tuple(field.name for field in fields(Row))


def caption(scenes: Scenes, row: int, chance: random.Random) -> str:
    """One caption of one scene of the table, from words, order and punctuation chosen by `chance`.

    A colour, a size, a count and a camera move that differ from the default are always named, so that leaving
    them out means the default (a heart is red by default); place and motion are left out now and then.
    """
    return _caption(_row(scenes, row), chance)


def captions(scenes: Scenes, chance: random.Random) -> list[str]:
    """`caption` of every scene."""
    columns = (getattr(scenes, name).tolist() for name in COLUMNS)
    return [_caption(Row(*values), chance) for values in zip(*columns, strict=True)]


def full_caption(scenes: Scenes, row: int, chance: random.Random, *, held_out_nouns: bool = False) -> str:
    """A caption of one scene that names every attribute, the direction of travel included.

    Args:
        held_out_nouns: call subjects by the names that training never uses, where they have one.
    """
    scene = _row(scenes, row)
    wording = Wording(
        who=_noun_phrase(scene, chance, _held_out_noun if held_out_nouns else _training_noun),
        is_many=scene.count > 1,
        verb=pick(chance, VERBS[MOTIONS[scene.motion]]),
        place=pick(chance, PLACES[BACKGROUNDS[scene.background]]),
        camera=pick(chance, CAMERA_WORDS[CAMERAS[scene.camera]]),
    )
    return pick(chance, FULL_TEMPLATES)(wording, chance)


def canonical_caption(scenes: Scenes, row: int) -> str:
    """The plainest full caption of one scene: the first of all words and patterns."""
    return full_caption(scenes, row, _AlwaysFirst())


class _AlwaysFirst(random.Random):
    def random(self) -> float:
        return 0.0


def _row(scenes: Scenes, row: int) -> Row:
    return Row(*(getattr(scenes, name)[row].item() for name in COLUMNS))


def _caption(scene: Row, chance: random.Random) -> str:
    is_travel = MOTIONS[scene.motion] in ("right", "left") and chance.random() < TRAVEL_SHARE
    verbs = TRAVEL if is_travel else VERBS[MOTIONS[scene.motion]]
    places = PLACES[BACKGROUNDS[scene.background]]
    wording = Wording(
        who=_noun_phrase(scene, chance, _training_noun, own_colour_unsaid=NO_OWN_COLOUR_SHARE),
        is_many=scene.count > 1,
        verb=pick(chance, verbs) if chance.random() >= NO_MOTION_SHARE else None,
        place=pick(chance, places) if chance.random() >= NO_PLACE_SHARE else "",
        camera=pick(chance, CAMERA_WORDS[CAMERAS[scene.camera]]),
    )
    return punctuated(pick(chance, TEMPLATES)(wording, chance), chance)


def _training_noun(subject: Subject, chance: random.Random) -> Noun:
    is_canonical = chance.random() < CANONICAL_SHARE
    return subject.training[0] if is_canonical else pick(chance, subject.training)


def _held_out_noun(subject: Subject, chance: random.Random) -> Noun:
    return pick(chance, subject.held_out or subject.training)


def _noun_phrase(
    scene: Row,
    chance: random.Random,
    noun_of: Callable[[Subject, random.Random], Noun],
    own_colour_unsaid: float = 0.0,
) -> str:
    """ "a small red dog", "three cars", "a dog and a blue cat"."""
    first = subjects()[scene.subject]
    noun, colour = noun_of(first, chance), _colour_word(first, scene.colour, chance, own_colour_unsaid)
    if scene.subject2 != NO_SUBJECT:
        second = subjects()[scene.subject2]
        colour2 = _colour_word(second, scene.colour2, chance, own_colour_unsaid)
        return f"{_one('', colour, noun)} and {_one('', colour2, noun_of(second, chance))}"
    size = pick(chance, SIZE_WORDS[SIZES[scene.size]])
    if scene.count == 1:
        return _one(size, colour, noun)
    return f"{pick(chance, COUNT_WORDS[scene.count])} {size}{colour}{noun.many}"


def _colour_word(subject: Subject, colour: int, chance: random.Random, own_unsaid: float) -> str:
    """The colour and a space; nothing for natural and for a share of the colours that go without saying."""
    if colour == NATURAL:
        return ""
    word = COLOURS[colour]
    return "" if word == subject.colour and chance.random() < own_unsaid else f"{word} "


def _one(size: str, colour: str, noun: Noun) -> str:
    phrase = f"{size}{colour}{noun.one}"
    is_vowel = phrase[0] in "aeiou" and not phrase.startswith(("uni", "ufo"))
    return f"an {phrase}" if is_vowel else f"a {phrase}"
