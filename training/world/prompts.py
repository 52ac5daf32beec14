"""The evaluation's prompts: scenes whose (subject, motion, background) triple training never showed."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from training.world.attributes import COLOURS, COUNTS, MEDIUM, NATURAL, NO_SUBJECT, STATIC
from training.world.captions import full_caption
from training.world.held_out import held_out_mask
from training.world.scenes import Scenes, sample_scenes
from training.world.subjects import subjects

NUM_PROMPTS = 1040
SEED = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """Prompts with what they ask for.

    Attributes:
        texts: one per scene; each names subject, motion, background, colour and count.
        scenes: the truth, one row per prompt.
        seeds: one fixed seed of the initial noise per prompt.
    """

    texts: tuple[str, ...]
    scenes: Scenes
    seeds: tuple[int, ...]


def evaluation_prompts(num: int = NUM_PROMPTS, seed: int = SEED) -> Prompts:
    """`num` held-out triples, none twice while they last, in training's words.

    Colours (never natural) and counts are balanced; sizes, cameras and places are left at their defaults.
    """
    return _prompts(np.argwhere(held_out_mask()), num, seed, held_out_nouns=False)


def synonym_prompts(num: int = 416, seed: int = SEED) -> Prompts:
    """The same for the subjects that have held-out names, called by those names."""
    triples = np.argwhere(held_out_mask())
    has_names = np.array([bool(subject.held_out) for subject in subjects()])
    return _prompts(triples[has_names[triples[:, 0]]], num, seed, held_out_nouns=True)


def _prompts(triples: np.ndarray, num: int, seed: int, *, held_out_nouns: bool) -> Prompts:
    rng = np.random.default_rng(seed)
    rounds = -(-num // len(triples))
    chosen = np.concatenate([rng.permutation(triples) for _ in range(rounds)])[:num]
    scenes = _default_scenes(num, rng)
    scenes.subject[:], scenes.motion[:], scenes.background[:] = chosen.T
    scenes.heading[scenes.motion == 0], scenes.heading[scenes.motion == 1] = 1, -1
    chance = random.Random(seed)
    texts = [full_caption(scenes, row, chance, held_out_nouns=held_out_nouns) for row in range(num)]
    return Prompts(texts=tuple(texts), scenes=scenes, seeds=tuple(range(seed, seed + num)))


def _default_scenes(num: int, rng: np.random.Generator) -> Scenes:
    """Scenes of one subject in a balanced colour and count, of plain size under a resting camera."""
    scenes = sample_scenes(num, rng, split="any")
    scenes.subject2[:] = NO_SUBJECT
    scenes.colour2[:] = NATURAL
    scenes.size[:] = MEDIUM
    scenes.camera[:] = STATIC
    combinations = rng.permutation(np.arange(num) % ((len(COLOURS) - 1) * len(COUNTS)))
    scenes.colour[:] = 1 + combinations // len(COUNTS)
    scenes.count[:] = 1 + combinations % len(COUNTS)
    return scenes
