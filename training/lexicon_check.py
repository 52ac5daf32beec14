"""Whether the lexicon's recipe reads nouns right, asked without the held-out names.

Each name of a subject that has others is taken out of the captions' names with all that share a word with it,
and read by the recipe as though no caption had ever used it. Beside that, nouns with no concrete sense should
be read as nothing, and the kinds that WordNet knows of a subject as that subject.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from training.lexicon_score import Embed, Scorer
from training.wordnet import WordNet, genera, meanings
from training.world.subjects import Subject

ABSTRACT = frozenset({3, 7, 9, 10, 11, 12, 15, 16, 18, 19, 21, 22, 23, 24, 26, 28})
"""Fields of WordNet without things one sees: acts, attributes, thoughts, words, events, persons, times."""
NUM_STRANGERS = 2000
KINDS_OF_EACH = 15
DEPTH = 3  # steps from a subject down to its kinds


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A name that is taken out, and its subject without it."""

    name: str
    subject: Subject


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """How nouns were read; `wrong` holds them with what they were read as."""

    right: int
    wrong: tuple[tuple[str, int], ...]
    unread: tuple[str, ...]


def left_out(names: Sequence[Subject]) -> list[LeftOut]:
    """Every name of one or two words that is no compound of another and leaves some that share no word."""
    found = []
    for subject in names:
        parts = {noun: set(noun.one.split()) for noun in subject.training}
        for noun, words in parts.items():
            rest = tuple(other for other, others in parts.items() if not words & others)
            is_compound = any(others < words for others in parts.values())
            if rest and len(words) <= 2 and not is_compound:
                found.append(LeftOut(name=noun.one, subject=replace(subject, training=rest)))
    return found


def read_left_out(scorer: Scorer, names: Sequence[Subject]) -> Count:
    """Each read by itself, with all names but those that go with it."""
    tests = left_out(names)
    words = [test.name for test in tests]
    scores = scorer.scores(words, names)
    for row, test in enumerate(tests):
        column = next(i for i, subject in enumerate(names) if subject.id == test.subject.id)
        scores[row, column] = scorer.scores([test.name], [test.subject])[0, 0]
    return _count(scorer, words, scores, [test.subject.id for test in tests], names)


def read_all(scorer: Scorer, words: Sequence[str], right: Sequence[int], names: Sequence[Subject]) -> Count:
    """Words that should be read as subjects `right`."""
    return _count(scorer, words, scorer.scores(words, names), right, names)


def _count(
    scorer: Scorer,
    words: Sequence[str],
    scores: NDArray[np.float32],
    right: Sequence[int],
    names: Sequence[Subject],
) -> Count:
    is_read = scores.max(1) >= scorer.enough(words)
    places = [names[i].id for i in scores.argmax(1)]
    rows = list(zip(words, is_read, places, right, strict=True))
    return Count(
        right=sum(bool(read) and place == asked for _, read, place, asked in rows),
        wrong=tuple((word, place) for word, read, place, asked in rows if read and place != asked),
        unread=tuple(word for word, read, _, _ in rows if not read),
    )


def strangers(net: WordNet, words: Sequence[str]) -> list[str]:
    """Some of the words all of whose senses are abstract."""
    found = [word for word in words if word in net.senses and word not in net.rarely_nouns]
    found = [word for word in found if ABSTRACT.issuperset(net.fields[s] for s in net.senses[word])]
    return _some(found, NUM_STRANGERS)


def kinds(net: WordNet, words: Sequence[str], names: Sequence[Subject]) -> dict[str, int]:
    """Words whose first sense is a kind of one subject alone: {word: subject}, at most 15 each."""
    tops = {synset: subject.id for subject in names for synset in meanings(net, subject).values()}
    found: dict[int, list[str]] = {subject.id: [] for subject in names}
    for word in words:
        first = net.senses.get(word, [])[:1]
        above = {tops[s] for each in first for s, k in genera(net, each).items() if s in tops and k <= DEPTH}
        if len(above) == 1 and " " not in word:
            found[above.pop()].append(word)
    return {word: place for place, many in found.items() for word in _some(many, KINDS_OF_EACH)}


def _some(words: list[str], num: int) -> list[str]:
    return random.Random(0).sample(words, min(num, len(words)))


def report(net: WordNet, embed: Embed, words: Sequence[str], names: Sequence[Subject]) -> str:
    """A line a question, and what was read wrong or not at all."""
    scorer, nouns = Scorer(net, embed), {subject.id: subject.noun for subject in names}
    far, near = strangers(net, words), kinds(net, words, names)
    one_out = read_left_out(scorer, names)
    num_far = len(read_all(scorer, far, [-1] * len(far), names).wrong)
    lines = [
        f"names left out: {_line(one_out)}",
        f"  wrong: {', '.join(f'{word} ({nouns[place]})' for word, place in one_out.wrong)}",
        f"  unread: {', '.join(one_out.unread)}",
        f"kinds of a subject: {_line(read_all(scorer, list(near), list(near.values()), names))}",
        f"abstract nouns read as a subject: {num_far} of {len(far)}",
    ]
    return "\n".join(lines)


def _line(count: Count) -> str:
    num = count.right + len(count.wrong) + len(count.unread)
    return f"{count.right} of {num} right, {len(count.wrong)} wrong, {len(count.unread)} unread"
