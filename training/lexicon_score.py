"""How near a noun is to each subject, and how near is near enough."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from training.wordnet import NUM_SENSES, WordNet, closeness, meanings
from training.world.subjects import Subject

SHOWN = "a picture of a {}"
CLOSENESS, DEFINITION = 0.5, 0.2  # weights beside the cosine of words, which has 1
LATER_SENSE = 0.03  # of the cosine of definitions, by a sense's rank
ENOUGH, ENOUGH_OF_TWO = 0.82, 0.92  # of a word, of two
RARELY_NOUN = 0.1  # on top, of a noun that is more often another part of speech

Embed = Callable[[Sequence[str]], NDArray[np.float32]]


class Scorer:
    """Scores of nouns by WordNet and by a sentence encoder, {texts: [texts, width] of length 1}."""

    def __init__(self, net: WordNet, embed: Embed) -> None:
        self.net = net
        self._embed = embed

    def scores(self, words: Sequence[str], names: Sequence[Subject]) -> NDArray[np.float32]:
        """[words, subjects]. Only what can still be enough is compared by its definitions."""
        senses = [meanings(self.net, subject) for subject in names]
        table = self._likeness(words, names)
        table += CLOSENESS * closeness(self.net, words, senses)
        rows = np.flatnonzero(table.max(1) >= self.enough(words) - DEFINITION)
        table[rows] += DEFINITION * self._agreement([words[row] for row in rows], senses)
        return table

    def enough(self, words: Sequence[str]) -> NDArray[np.float32]:
        """The score from which on a word is read as its best subject: [words]; infinite outside WordNet."""
        return np.array([self._enough(word) for word in words], np.float32)

    def _enough(self, word: str) -> float:
        if word not in self.net.senses:
            return math.inf
        rarely = RARELY_NOUN if word in self.net.rarely_nouns else 0.0
        return rarely + (ENOUGH_OF_TWO if " " in word else ENOUGH)

    def _likeness(self, words: Sequence[str], names: Sequence[Subject]) -> NDArray[np.float32]:
        """Mean cosine to the names of each subject: that to the mean of their vectors."""
        shown = [
            self._embed([SHOWN.format(noun.one) for noun in subject.training]).mean(0) for subject in names
        ]
        found: NDArray[np.float32] = self._embed([SHOWN.format(word) for word in words]) @ np.stack(shown).T
        return found

    def _agreement(self, words: Sequence[str], senses: Sequence[dict[str, str]]) -> NDArray[np.float32]:
        """The same of definitions; of the senses of a word, the best. 0 without any."""
        table = np.zeros((len(words), len(senses)), np.float32)
        columns = [column for column, found in enumerate(senses) if found]
        pairs = [(word, sense) for word in words for sense in self.net.senses.get(word, [])[:NUM_SENSES]]
        if not columns or not pairs:
            return table
        means = np.stack([self._defined(list(senses[column].items())).mean(0) for column in columns])
        cosines, start = self._defined(pairs) @ means.T, 0
        for row, word in enumerate(words):
            num = min(NUM_SENSES, len(self.net.senses.get(word, [])))
            if num:
                ranks = np.arange(num)[:, None]
                table[row, columns] = (cosines[start : start + num] - LATER_SENSE * ranks).max(0)
            start += num
        return table

    def _defined(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        return self._embed([f"{word}: {self.net.glosses[synset]}" for word, synset in pairs])
