"""Write the words that the toy's text encoder was trained to take as equal: `python -m training.synonyms`.

Captions draw the words of a value at random, so for the model all words of one value are one. The list is for
reuse (docs/reuse.md). Words held out from the captions are not in it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from rushes.reuse.lexicon import lexicon
from training.world.phrases import CAMERA_WORDS, COUNT_WORDS, PLACES, SIZE_WORDS, VERBS
from training.world.subjects import subjects
from training.world.templates import OPENINGS

OUT = Path("src/rushes/assets/toy/tokenizer/synonyms.json")
THERE = ("there is", "there are")
KEEP = ("hot dog",)
"""Not the dog that a puppy is."""

Group = list[list[str]]
"""Equal phrases, each in all its forms."""


def groups() -> Iterator[Group]:
    """Of every value that is said in more than one way."""
    for subject in subjects():
        yield from _clear([[noun.one, noun.many] for noun in subject.training])
    for verbs in VERBS.values():
        yield from _clear([[verb.one, verb.many, verb.ing] for verb in verbs])
    for places in PLACES.values():
        # The guard lets "on the beach" change places with the rest, which it cannot tell of "underwater".
        first = next(place for place in places if place.split()[0] in lexicon().prepositions)
        yield from _clear([[first], *([place] for place in places if place != first)])
    for words in (*CAMERA_WORDS.values(), *SIZE_WORDS.values(), *COUNT_WORDS.values()):
        yield from _clear([[word.strip()] for word in dict.fromkeys(words) if word])


def _clear(group: Group) -> Iterator[Group]:
    """Words that are one for one and for many ("sheep") stand apart, so that the others still tell."""
    telling = [forms for forms in group if len({*forms}) == len(forms)]
    silent = [[forms[0]] for forms in group if len({*forms}) < len(forms)]
    # A word with another that has one of its forms in another place tells nothing either.
    counts = Counter(form for forms in telling for form in {*forms})
    telling = [forms for forms in telling if all(counts[form] == 1 for form in forms)]
    yield from (found for found in (telling, silent) if len(found) > 1)


def text() -> str:
    """The file, a group a line."""
    rows = ",\n".join(f"  {json.dumps([_short(forms) for forms in group])}" for group in groups())
    openings = json.dumps([*OPENINGS, *THERE])
    keep = json.dumps(KEEP)
    return (
        f'{{\n "models": ["toy"],\n "openings": {openings},\n "keep": {keep},\n "equal": [\n{rows}\n ]\n}}\n'
    )


def _short(forms: Sequence[str]) -> str | list[str]:
    return forms[0] if len(forms) == 1 else list(forms)


if __name__ == "__main__":
    OUT.write_text(text(), encoding="utf-8")
