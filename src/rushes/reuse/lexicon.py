"""The word lists of the meaning guard, read from `lexicon.toml`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from importlib.resources import files
from typing import Any

Words = frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lexicon:
    """See `lexicon.toml`, which has the same names.

    Attributes:
        classes: name of a class by word.
        past, passive: the present by form.
        spellings: what is read instead of a word or of two.
    """

    classes: Mapping[str, str]
    articles: Words
    auxiliaries: Words
    relatives: Words
    prepositions: Words
    determiners: Words
    possessives: Words
    clauses: Words
    conjunctions: Words
    adverbs: Words
    not_adverbs: Words
    manners: Words
    clothes: Words
    same_plural: Words
    past: Mapping[str, str]
    passive: Mapping[str, str]
    whole: Words
    spellings: Mapping[str, str]


@cache
def lexicon() -> Lexicon:
    """Read once."""
    content: dict[str, Any] = tomllib.loads(_text())
    classes: dict[str, str] = {}
    for name, text in content["classes"].items():
        for word in _words(text):
            classes.setdefault(word, name)
    forms = content["forms"]
    return Lexicon(
        classes=classes,
        **{name: _words(text) for name, text in (content["dropped"] | content["structure"]).items()},
        same_plural=_words(forms["same_plural"]),
        past=_pairs(forms["past"]),
        passive=_pairs(forms["passive"]),
        whole=_words(forms["whole"]),
        spellings={word: spelled for spelled, text in content["spellings"].items() for word in _words(text)},
    )


@cache
def fingerprint() -> str:
    """Of the lists: what was made with others cannot be compared."""
    return blake2b(_text().encode(), digest_size=8).hexdigest()


def _text() -> str:
    return files("rushes.reuse").joinpath("lexicon.toml").read_text("utf-8")


def _words(text: str) -> Words:
    return frozenset(word.replace("_", " ") for word in text.split())


def _pairs(text: str) -> Mapping[str, str]:
    return dict(pair.split("=") for pair in text.split())
