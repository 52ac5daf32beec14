"""The lexicon's lines, as `rushes.models.lexicon` reads them."""

from __future__ import annotations

import lzma
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from rushes.models.lexicon import KEPT, plural
from training.wordnet import WordNet
from training.world.subjects import Subject


def lines(net: WordNet, found: Mapping[str, int], names: Sequence[Subject]) -> list[str]:
    """A line of the names that captions use, then one a subject: its two forms, then the words."""
    words: dict[int, list[str]] = defaultdict(list)
    for word, place in found.items():
        words[place].append("=".join([word, *irregular(word, net.plurals.get(word, []))]))
    own = ["=".join([n.one, *irregular(n.one, [n.many])]) for subject in names for n in subject.training]
    forms = {subject.id: f"{subject.training[0].one}, {subject.training[0].many}" for subject in names}
    return [
        f"{KEPT}: {', '.join(sorted(own))}",
        *(f"{form}: {', '.join(sorted(words[place]))}" for place, form in forms.items()),
    ]


def irregular(word: str, plurals: Sequence[str]) -> list[str]:
    """Those that no rule makes of the word."""
    return [many for many in plurals if many not in (word, plural(word))]


def write(text: Sequence[str], out: Path) -> None:
    """The file, compressed."""
    data = "".join(f"{line}\n" for line in text).encode()
    out.write_bytes(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))
    print(f"{out.stat().st_size} bytes")
