"""Forms of English words: a stem that runs, running and ran share, and which form it was."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from rushes.reuse.lexicon import lexicon

Form = Literal["base", "s", "ing", "ed", "passive"]

_ENDINGS: tuple[tuple[str, Form], ...] = (
    ("ing", "ing"),
    ("ied", "ed"),
    ("ed", "ed"),
    ("ies", "s"),
    ("es", "s"),
    ("s", "s"),
)
_VOWEL = re.compile("[aeiouy]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """A word as it was written, and what is left of it without its ending."""

    text: str
    stem: str
    form: Form


@lru_cache(maxsize=8192)
def read_word(text: str) -> Word:
    """Take a word apart.

    Example:
        >>> [read_word(word).stem for word in ("rides", "riding", "ride", "carries", "swam", "running")]
        ['rid', 'rid', 'rid', 'carry', 'swim', 'run']
    """
    known = lexicon()
    if text in known.past:
        return Word(text=text, stem=_bare(known.past[text]), form="ed")
    if text in known.passive:
        return Word(text=text, stem=_bare(known.passive[text]), form="passive")
    if text in known.whole or not text.isalpha():
        return Word(text=text, stem=text, form="base")
    for ending, form in _ENDINGS:
        stem = _without(text, ending)
        if stem is not None:
            return Word(text=text, stem=_bare(stem), form=form)
    return Word(text=text, stem=_bare(text), form="base")


def is_same_word(one: Word, other: Word) -> bool:
    """Whether two words of one stem can be one verb in two forms.

    Not "dog" and "dogs": of a noun that is another number; of a verb another number of those who do it. Not
    "watches" and "is watched". Words of one form must be one word: "plane" is not "plan".
    """
    if one.form == other.form:
        return one.text == other.text
    return {one.form, other.form} != {"base", "s"} and "passive" not in (one.form, other.form)


def _without(text: str, ending: str) -> str | None:
    """None where the ending is none."""
    if not text.endswith(ending):
        return None
    stem = text.removesuffix(ending)
    if ending in ("ies", "ied"):
        return stem + "y" if len(stem) >= 1 else None
    if ending == "es" and not stem.endswith(("sh", "ch", "ss", "x", "zz", "o")):
        return None
    if ending == "s" and text.endswith(("ss", "us", "is")):
        return None
    if ending == "ed" and text.endswith("eed"):
        return None
    return stem if len(stem) >= 2 and _VOWEL.search(stem) else None


def _bare(stem: str) -> str:
    """Without a silent e and without a doubled last letter, both of which endings take or bring."""
    if stem.endswith("e") and len(stem) > 2:
        stem = stem[:-1]
    if len(stem) > 3 and stem[-1] == stem[-2] and stem[-1] not in "aeiou":
        stem = stem[:-1]
    return stem


INFLECTIONS: tuple[Form, ...] = ("s", "ing", "ed")
_SIBILANT = re.compile("(s|x|z|ch|sh|o)$")
_IRREGULAR_PLURALS = frozenset(
    {
        "calf",
        "child",
        "deer",
        "elf",
        "fish",
        "foot",
        "goose",
        "half",
        "hoof",
        "knife",
        "leaf",
        "life",
        "loaf",
        "louse",
        "man",
        "mouse",
        "ox",
        "person",
        "scarf",
        "self",
        "sheep",
        "shelf",
        "swine",
        "thief",
        "tooth",
        "wife",
        "wolf",
        "woman",
    }
)
_MAN = re.compile("[a-z]{3}(man|foot|fish)$")
_SHORT_VOWEL = re.compile("[^aeiou][aeiou][^aeiouwxy]$")


def inflections(plain: str, form: Form) -> tuple[str, ...]:
    """Spellings of a form of a plain word, the usual first; only those that `read_word` takes for that form
    of this word, so that nothing is made up that would be read as another.

    Example:
        >>> inflections("hop", "ing"), inflections("carry", "ed"), inflections("leap", "ed")
        (('hopping',), ('carried',), ('leapt', 'leaped'))
    """
    known = lexicon()
    irregular = [past for past, present in known.past.items() if present == plain] if form == "ed" else []
    stem = read_word(plain).stem
    read = [(text, read_word(text)) for text in (*irregular, *_regular(plain, form))]
    return tuple(dict.fromkeys(text for text, word in read if (word.stem, word.form) == (stem, form)))


def is_regular(plain: str, form: Form) -> bool:
    """Whether a form of a plain word, noun or verb, follows from its letters.

    Example:
        >>> is_regular("child", "s"), is_regular("lie", "ed"), is_regular("leap", "ing")
        (False, False, True)
    """
    if form == "s":
        return plain not in _IRREGULAR_PLURALS and not _MAN.search(plain)
    return not plain.endswith("ie") if form == "ing" else plain not in lexicon().past.values()


def _regular(plain: str, form: Form) -> tuple[str, ...]:
    has_y = plain.endswith("y") and plain[-2:-1] not in "aeiou"
    if form == "s":
        return (plain[:-1] + "ies" if has_y else plain + ("es" if _SIBILANT.search(plain) else "s"),)
    if plain.endswith("e"):
        bare = plain[:-1]
        return (
            (bare + "ed",) if form == "ed" else (plain + "ing",) if plain.endswith("ee") else (bare + "ing",)
        )
    if has_y and form == "ed":
        return (plain[:-1] + "ied",)
    doubled = plain + plain[-1:] + form
    if not _SHORT_VOWEL.search(" " + plain):
        return (plain + form,)
    is_long = len(re.findall("[aeiouy]+", plain)) > 1
    return (plain + form, doubled) if is_long else (doubled,)
