"""The (subject, motion, background) triples that training never renders: the evaluation's prompts.

`python -m training.world.held_out` rebuilds `training/assets/held_out.json` by the seeded rule below.
"""

from __future__ import annotations

import json
from collections import defaultdict
from functools import cache

import numpy as np
from numpy.typing import NDArray

from training.world.attributes import BACKGROUNDS, MOTIONS
from training.world.subjects import ASSETS, subjects

HELD_OUT = ASSETS / "held_out.json"
SEED = 20261123
PER_SUBJECT = 12  # of 196 (motion, background) pairs


@cache
def held_out_mask() -> NDArray[np.bool_]:
    """[subjects, motions, backgrounds], True where the committed list holds the triple."""
    mask = np.zeros((len(subjects()), len(MOTIONS), len(BACKGROUNDS)), dtype=bool)
    names = [subject.noun for subject in subjects()]
    for noun, pairs in json.loads(HELD_OUT.read_text(encoding="utf-8")).items():
        for motion, background in map(str.split, pairs.split(", ")):
            mask[names.index(noun), MOTIONS.index(motion), BACKGROUNDS.index(background)] = True
    mask.setflags(write=False)
    return mask


def choose_triples() -> list[tuple[str, str, str]]:
    """Twelve triples a subject, dealt so that each motion and each background comes up equally often.

    Motions are dealt from a shuffled deck of all of them, backgrounds from another; a subject's hand is dealt
    again while it holds one (motion, background) pair twice.
    """
    rng = np.random.default_rng(SEED)
    num = len(subjects()) * PER_SUBJECT
    motions, backgrounds = _deck(num, len(MOTIONS), rng), _deck(num, len(BACKGROUNDS), rng)
    triples = []
    for index, subject in enumerate(subjects()):
        hand = slice(index * PER_SUBJECT, (index + 1) * PER_SUBJECT)
        while len(set(zip(motions[hand], backgrounds[hand], strict=True))) < PER_SUBJECT:
            backgrounds[hand] = rng.permutation(backgrounds[hand])
        pairs = sorted(zip(motions[hand].tolist(), backgrounds[hand].tolist(), strict=True))
        triples += [(subject.noun, MOTIONS[motion], BACKGROUNDS[background]) for motion, background in pairs]
    return triples


def _deck(num: int, num_values: int, rng: np.random.Generator) -> NDArray[np.int64]:
    rounds = -(-num // num_values)
    return np.concatenate([rng.permutation(num_values) for _ in range(rounds)])[:num]


def main() -> None:
    pairs: dict[str, list[str]] = defaultdict(list)
    for noun, motion, background in choose_triples():
        pairs[noun].append(f"{motion} {background}")
    listed = {noun: ", ".join(hand) for noun, hand in pairs.items()}
    HELD_OUT.write_text(json.dumps(listed, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
