"""WordNet 3.0's nouns (Fellbaum 1998): their senses and definitions, and how close two of them are."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.world.subjects import Subject

DOWN, UP, DOWN_AGAIN, SENSE = 0.1, 1.0, 0.8, 0.3  # cost of a step to a kind, to a genus, back down; of a rank
FAR = 5.0  # the cost beyond which two words have nothing to do with each other
NUM_SENSES = 8
REACH = 4  # steps between the senses of one subject's names


@dataclass(frozen=True, slots=True, kw_only=True)
class WordNet:
    """Nouns and their kinds.

    Attributes:
        senses: synsets of a lemma, the most frequent first.
        ups, downs: hypernyms and hyponyms of a synset.
        glosses: definition of a synset, without its examples.
        fields: the lexicographer's file of a synset, a field of meaning (`lexnames(5WN)`).
        common: lemmas that some synset writes without a capital: no names, Latin ones included.
        rarely_nouns: lemmas that are more often another part of speech.
        lemmas: of all parts of speech.
        plurals: the irregular ones of a lemma.
    """

    senses: dict[str, list[str]] = field(default_factory=dict)
    ups: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    downs: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    glosses: dict[str, str] = field(default_factory=dict)
    fields: dict[str, int] = field(default_factory=dict)
    common: set[str] = field(default_factory=set)
    rarely_nouns: set[str] = field(default_factory=set)
    lemmas: set[str] = field(default_factory=set)
    plurals: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


def read_wordnet(folder: Path) -> WordNet:
    """The noun files of WordNet 3.0 (`wndb(5WN)`), and the lemmas of the others."""
    net = WordNet()
    for line in _lines(folder / "data.noun"):
        data, _, gloss = line.partition(" | ")
        fields = data.split()
        net.glosses[fields[0]] = gloss.split('; "')[0].strip(" ;")
        net.fields[fields[0]] = int(fields[1])
        end = 4 + 2 * int(fields[3], 16)
        net.common.update(lemma.replace("_", " ") for lemma in fields[4:end:2] if lemma.islower())
        pointers = fields[end:]
        for start in range(1, 1 + 4 * int(pointers[0]), 4):
            symbol, other, part = pointers[start : start + 3]
            if part == "n" and symbol in ("@", "@i"):
                net.ups[fields[0]].append(other)
                net.downs[other].append(fields[0])
    for line in _lines(folder / "index.noun"):
        fields = line.split()
        net.senses[fields[0].replace("_", " ")] = fields[-int(fields[2]) :]
    for part in ("noun", "verb", "adj", "adv"):
        lines = [*_lines(folder / f"index.{part}"), *_lines(folder / f"{part}.exc")]
        net.lemmas.update(line.split()[0].replace("_", " ") for line in lines)
    for line in _lines(folder / "noun.exc"):
        many, *ones = line.split()
        for one in ones:
            net.plurals[one].append(many)
    _read_counts(folder / "cntlist.rev", net)
    return net


def _read_counts(file: Path, net: WordNet) -> None:
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for line in _lines(file):
        key, _, count = line.split()
        lemma, _, rest = key.partition("%")
        counts[lemma.replace("_", " ")][rest[0] != "1"] += int(count)
    net.rarely_nouns.update(word for word, (noun, other) in counts.items() if other > noun)


def _lines(file: Path) -> list[str]:
    return [line for line in file.read_text().splitlines() if not line.startswith("  ")]


def anchor(net: WordNet, subject: Subject) -> str | None:
    """The synset that a subject's names mean together: the one nearest to those of the other names."""
    senses = {noun.one: net.senses.get(noun.one, []) for noun in subject.training}
    scores: dict[str, float] = {}
    for name, found in senses.items():
        for rank, synset in enumerate(found):
            around = _around(net, synset, 3)
            score = 0.6 * (name == subject.noun) - 0.15 * rank
            for other in senses.keys() - {name}:
                near = [around[s] + SENSE * i for i, s in enumerate(senses[other]) if s in around]
                score += 1 / (1 + min(near)) if near else 0.0
            scores[synset] = max(score, scores.get(synset, score))
    return max(scores, key=lambda synset: scores[synset]) if scores else None


def meanings(net: WordNet, subject: Subject) -> dict[str, str]:
    """The sense of each name, {name: synset}: the one nearest to `anchor`. Names without one are left out."""
    centre = anchor(net, subject)
    around = {} if centre is None else _around(net, centre, REACH)
    found = {}
    for noun in subject.training:
        near = [(around[s] + SENSE * i, s) for i, s in enumerate(net.senses.get(noun.one, [])) if s in around]
        if near:
            found[noun.one] = min(near)[1]
    return found


def _around(net: WordNet, start: str, radius: int) -> dict[str, int]:
    """Steps to every synset within `radius`."""
    return _steps(start, lambda synset: net.ups[synset] + net.downs[synset], radius)


def genera(net: WordNet, synset: str) -> dict[str, int]:
    """A synset and all that it is a kind of: steps up to each."""
    return _steps(synset, lambda each: net.ups[each])


def _steps(start: str, beside: Callable[[str], list[str]], radius: float = math.inf) -> dict[str, int]:
    """To every synset within `radius`, by the shortest way."""
    steps, queue = {start: 0}, [start]
    for synset in queue:
        for other in beside(synset) if steps[synset] < radius else ():
            if other not in steps:
                steps[other] = steps[synset] + 1
                queue.append(other)
    return steps


def closeness(
    net: WordNet, words: Sequence[str], subjects: Sequence[Mapping[str, str]]
) -> NDArray[np.float32]:
    """[words, subjects] in 0..1: the cheapest way from any of a subject's synsets, up to a genus and down.

    Args:
        subjects: what `meanings` found of each.
    """
    kinds, relatives = _ways_up(net, subjects)
    table = np.zeros((len(words), len(subjects)), np.float32)
    for row, word in enumerate(words):
        for rank, synset in enumerate(net.senses.get(word, [])[:NUM_SENSES]):
            for genus, steps in genera(net, synset).items():
                for ways, step in ((kinds, DOWN), (relatives, DOWN_AGAIN)):
                    if genus in ways:
                        cost = ways[genus] + step * steps
                        value = np.where(cost <= FAR, 1 - (cost + SENSE * rank) / FAR, 0)
                        np.maximum(table[row], value, out=table[row])
    return table


def _ways_up(
    net: WordNet, subjects: Sequence[Mapping[str, str]]
) -> tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[np.float32]]]:
    """Cost from the subjects to a synset that is one of them, and to those above: {synset: [subjects]}."""
    at: dict[str, NDArray[np.float32]] = defaultdict(lambda: np.full(len(subjects), math.inf, np.float32))
    above: dict[str, NDArray[np.float32]] = defaultdict(lambda: np.full(len(subjects), math.inf, np.float32))
    for column, senses in enumerate(subjects):
        for synset in senses.values():
            for genus, steps in genera(net, synset).items():
                ways = above if steps else at
                ways[genus][column] = min(ways[genus][column], UP * steps)
    return at, above
