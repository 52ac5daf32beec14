"""Words that are made of a name by its form alone: cut short ("croc") or made small ("froggy").

Only those count that WordNet lacks in every part of speech: of what it has, it knows the meaning.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator

from rushes.models.lexicon import plural
from training.wordnet import WordNet
from training.world.subjects import Subject

_VOWELS = "aeiouy"
SHORTEST, LEAST_CUT = 4, 3  # letters that are left of a name, and that are cut off it


def by_form(net: WordNet, names: Collection[Subject], used: Collection[str] = ()) -> dict[str, int]:
    """Words that come of one subject's names alone: {word: subject}.

    Args:
        used: words that mean something else.
    """
    places: dict[str, set[int]] = defaultdict(set)
    own: set[str] = set()
    for subject in names:
        for noun in subject.training:
            own.update((noun.one, noun.many, *noun.one.split(), *noun.many.split()))
            if noun.one.isalpha():
                for form in (*clips(noun.one), *diminutives(noun.one)):
                    places[form].add(subject.id)
    known = net.lemmas | own | set(used)
    return {
        form: min(found)
        for form, found in places.items()
        if len(found) == 1 and known.isdisjoint((form, form.removesuffix("s"), plural(form)))
    }


def clips(name: str) -> Iterator[str]:
    """Its beginnings of one or two syllables.

    Example:
        >>> list(clips("dinosaur"))
        ['dino', 'dinos']
    """
    for length in range(SHORTEST, len(name) - LEAST_CUT + 1):
        if 1 <= _syllables(name[:length]) <= 2:
            yield name[:length]


def diminutives(name: str) -> Iterator[str]:
    """That with "y" of a name of one syllable, behind a double consonant where the vowel is short.

    Example:
        >>> [*diminutives("frog"), *diminutives("bear"), *diminutives("giraffe")]
        ['froggy', 'beary']
    """
    if _syllables(name) == 1 and name[-1] not in _VOWELS:
        is_short = _syllables(name[-2]) == 1 and not _syllables(name[-3:-2]) and name[-1] not in "wx"
        yield f"{name}{name[-1] * is_short}y"


def _syllables(text: str) -> int:
    return len(re.findall(f"[{_VOWELS}]+", text))
