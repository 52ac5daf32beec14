"""Tables of scenes: what each clip shows, as one array per attribute."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from training.world.attributes import (
    BACKGROUNDS,
    CAMERAS,
    COLOURS,
    COUNTS,
    MEDIUM,
    MOTIONS,
    NATURAL,
    NO_SUBJECT,
    SIZES,
    STATIC,
)
from training.world.held_out import held_out_mask
from training.world.subjects import subjects

Array = NDArray[np.generic]

NUM_VARIANTS = 96
PAIR_SHARE = 0.1  # of scenes: two different subjects, one each
COLOUR_WEIGHTS = (0.25, *[0.125] * 6)
SIZE_WEIGHTS = (0.25, 0.5, 0.25)
CAMERA_WEIGHTS = (0.6, *[0.1] * 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenes:
    """`len(scenes)` scenes; every field is an array of that length, an index into `attributes` or a nuisance.

    Attributes:
        subject, subject2: rows of the sprite sheet; `subject2` is -1 unless two different subjects are shown.
        count: copies shown, 1 to 3; 2 when there is a `subject2`.
        colour, colour2: indices of COLOURS, of the subject and of the second one; never natural for a subject
            whose plain look has a colour word (`Subject.colour`).
        size, motion, background, camera: indices of SIZES, MOTIONS, BACKGROUNDS, CAMERAS.
        variant: which picture of the background's bank.
        heading: -1 or 1, the sense of zigzags, spins and circles, and where "left" and "right" lead.
        phase: in [0, 1), where a periodic motion begins.
        speed: in [0, 1], from slow to quick.
        x, y: in [-1, 1], the place in the room that the motion leaves free.
        view: in [-1, 1], which part of the background is seen.
        brightness: factor of the background's light, around 1.
    """

    subject: Array
    subject2: Array
    count: Array
    colour: Array
    colour2: Array
    size: Array
    motion: Array
    background: Array
    camera: Array
    variant: Array
    heading: Array
    phase: Array
    speed: Array
    x: Array
    y: Array
    view: Array
    brightness: Array

    def __len__(self) -> int:
        return len(self.subject)

    def __getitem__(self, index: slice | Array) -> Scenes:
        """The scenes of a slice, an index array or a mask."""
        return Scenes(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

    def held_out(self) -> NDArray[np.bool_]:
        """Which scenes show a (subject, motion, background) triple that training must not."""
        mask = held_out_mask()
        first = mask[self.subject, self.motion, self.background]
        second = mask[self.subject2, self.motion, self.background] & (self.subject2 != NO_SUBJECT)
        return np.asarray(first | second, dtype=bool)


def sample_scenes(num: int, rng: np.random.Generator, *, split: str = "train") -> Scenes:
    """Draws scenes whose every attribute is balanced (colours, sizes and cameras by their weights above).

    Args:
        split: "train" never yields a held-out triple; "any" ignores the split.
    """
    if split not in ("train", "any"):
        raise ValueError(f"split is {split!r}; it must be 'train' or 'any'")
    scenes = _draw(num, rng)
    while split == "train" and (bad := np.flatnonzero(scenes.held_out())).size:
        scenes = replaced(scenes, bad, _draw(bad.size, rng))
    return scenes


def replaced(scenes: Scenes, rows: Array, others: Scenes) -> Scenes:
    """A copy of the table whose given rows are those of `others`."""
    columns = {field.name: getattr(scenes, field.name).copy() for field in fields(scenes)}
    for name, column in columns.items():
        column[rows] = getattr(others, name)
    return Scenes(**columns)


def _draw(num: int, rng: np.random.Generator) -> Scenes:
    num_subjects = len(subjects())
    subject = _balanced(num, num_subjects, rng)
    is_pair = rng.random(num) < PAIR_SHARE
    other = (subject + rng.integers(1, num_subjects, num)) % num_subjects
    motion = _balanced(num, len(MOTIONS), rng)
    coloured_pair = rng.random(num) < 0.5
    colour = rng.choice(len(COLOURS), num, p=COLOUR_WEIGHTS)
    colour = np.where(is_pair, np.where(coloured_pair, rng.integers(1, len(COLOURS), num), NATURAL), colour)
    colour2 = (colour - 1 + rng.integers(1, len(COLOURS) - 1, num)) % (len(COLOURS) - 1) + 1
    heading = rng.integers(0, 2, num) * 2 - 1
    heading = np.select([motion == MOTIONS.index("right"), motion == MOTIONS.index("left")], [1, -1], heading)
    return Scenes(
        subject=subject,
        subject2=np.where(is_pair, other, NO_SUBJECT).astype(np.int16),
        count=np.where(is_pair, 2, 1 + _balanced(num, len(COUNTS), rng)).astype(np.int8),
        colour=_own_if_natural(colour, subject),
        colour2=_own_if_natural(np.where(is_pair & coloured_pair, colour2, NATURAL), other),
        size=np.where(is_pair, MEDIUM, rng.choice(len(SIZES), num, p=SIZE_WEIGHTS)).astype(np.int8),
        motion=motion.astype(np.int8),
        background=_balanced(num, len(BACKGROUNDS), rng).astype(np.int8),
        camera=np.where(is_pair, STATIC, rng.choice(len(CAMERAS), num, p=CAMERA_WEIGHTS)).astype(np.int8),
        variant=rng.integers(0, NUM_VARIANTS, num).astype(np.int16),
        heading=heading.astype(np.int8),
        phase=rng.random(num, np.float32),
        speed=rng.random(num, np.float32),
        x=rng.uniform(-1, 1, num).astype(np.float32),
        y=rng.uniform(-1, 1, num).astype(np.float32),
        view=rng.uniform(-1, 1, num).astype(np.float32),
        brightness=rng.uniform(0.94, 1.06, num).astype(np.float32),
    )


def _own_if_natural(colour: Array, subject: Array) -> NDArray[np.int8]:
    """The colour, or where none is drawn that of the subjects whose plain look has a name: a heart is red."""
    own = np.array([COLOURS.index(each.colour) if each.colour else NATURAL for each in subjects()])
    return np.where(colour == NATURAL, own[subject], colour).astype(np.int8)


def _balanced(num: int, num_values: int, rng: np.random.Generator) -> NDArray[np.int16]:
    """Every value equally often (within one), in random order."""
    offset = rng.integers(num_values)
    return rng.permutation((np.arange(num) + offset) % num_values).astype(np.int16)
