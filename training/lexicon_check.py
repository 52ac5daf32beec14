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

from rushes.models.lexicon import Lexicon
from training.lexicon_file import lines
from training.lexicon_forms import by_form
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
    places = [
        _read(scorer.net, test, place, names)
        for test, place in zip(tests, _by_score(scorer, words, scores, names), strict=True)
    ]
    return _count(words, places, [test.subject.id for test in tests])


def _read(net: WordNet, test: LeftOut, by_score: int | None, names: Sequence[Subject]) -> int | None:
    """The subject that a lexicon reads in the name, made of what its score found and of the other names."""
    rest = [test.subject if subject.id == test.subject.id else subject for subject in names]
    found = by_form(net, rest) if by_score is None else {test.name: by_score}
    text = Lexicon(lines(net, found, rest))(test.name)
    return next((s.id for s in rest if text in {noun.one for noun in s.training}), None)


def read_all(scorer: Scorer, words: Sequence[str], right: Sequence[int], names: Sequence[Subject]) -> Count:
    """Words that should be read as subjects `right`, by their scores."""
    return _count(words, _by_score(scorer, words, scorer.scores(words, names), names), right)


def _by_score(
    scorer: Scorer, words: Sequence[str], scores: NDArray[np.float32], names: Sequence[Subject]
) -> list[int | None]:
    """The best subject of each word where its score is enough."""
    is_read = scores.max(1) >= scorer.enough(words)
    return [names[i].id if read else None for i, read in zip(scores.argmax(1), is_read, strict=True)]


def _count(words: Sequence[str], places: Sequence[int | None], right: Sequence[int]) -> Count:
    rows = list(zip(words, places, right, strict=True))
    return Count(
        right=sum(place == asked for _, place, asked in rows),
        wrong=tuple((word, place) for word, place, asked in rows if place is not None and place != asked),
        unread=tuple(word for word, place, _ in rows if place is None),
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
