"""Lists of equal words in files: `equal`, groups of phrases; `openings`; `keep`; `models`. TOML, or JSON by
its name.

    equal = [
      ["doughnut", "donut"],
      ["on a snowy field", "in a winter landscape"],
      [["spins", "spin", "spinning"], ["turns round", "turn round", "turning round"]],
    ]
    openings = ["a video of", "there is"]
    keep = ["hot dog"]

The first of a group is what is written for all of it. Where all of a group are single words in their plain
form, other forms of one stand for the same form of the first: "donuts" for "doughnuts", "leaps" for "jumps".
Phrases are taken as they are written; their forms, and those of a first word whose own are irregular
("child", "lie"), are given as lists in one order. So singular never becomes plural.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rushes.errors import ConfigError, did_you_mean
from rushes.reuse.inflection import INFLECTIONS, inflections, is_regular, read_word
from rushes.reuse.synonyms import Synonyms, Words, folded, phrase_of

_KEYS = ("equal", "openings", "keep", "models")
_MAX_WORDS = 12
"""Of a phrase: looking for the longest takes time with it."""


def read_synonyms(file: Path) -> Synonyms:
    """The list of a file.

    Raises:
        ConfigError: it cannot be read, or has a group that means nothing or two things: file, entry and rule.
    """
    content = _content(file)
    for key in content:
        if key not in _KEYS:
            raise ConfigError(f"{file}: unknown key {key!r}{did_you_mean(key, _KEYS)}")
    openings = [folded(one) for one in _texts(file, "openings", content.get("openings", []))]
    return Synonyms(
        table=_table(file, content.get("equal", [])),
        openings=tuple(sorted(filter(None, openings), key=lambda one: (-len(one), one))),
        keep=tuple(_phrase(file, "keep", one) for one in _texts(file, "keep", content.get("keep", []))),
        models=frozenset(_texts(file, "models", content.get("models", []))),
    )


def _content(file: Path) -> dict[str, Any]:
    is_json = file.suffix == ".json"
    try:
        text = file.read_text(encoding="utf-8")
        found = json.loads(text) if is_json else tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from error
    except ValueError as error:  # JSON's, TOML's and UTF-8's errors are kinds of it
        raise ConfigError(f"{file}: is not {'JSON' if is_json else 'TOML'}: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{file}: must be an object of {', '.join(_KEYS)}, got {type(found).__name__}")
    return found


def _texts(file: Path, key: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ConfigError(f"{file}: {key}: must be a list of texts, got {value!r}")
    return value


def _table(file: Path, groups: Any) -> dict[Words, str]:
    """Phrases to what is written for them: those of the file, then other forms that it leaves open."""
    if not isinstance(groups, list):
        raise ConfigError(f"{file}: equal: must be a list of groups, got {groups!r}")
    table: dict[Words, str] = {}
    inferred: dict[Words, set[str]] = {}
    for group in groups:
        for column in _columns(file, group):
            written = " ".join(column[0])
            for words in column:
                if table.setdefault(words, written) != written:
                    raise ConfigError(
                        f"{file}: equal: {' '.join(words)!r} stands in two groups or for two forms"
                    )
            for words, form in _other_forms(column):
                inferred.setdefault(words, set()).add(form)
    clear = {words: forms.pop() for words, forms in inferred.items() if len(forms) == 1}
    return clear | table


def _columns(file: Path, group: Any) -> Iterator[list[Words]]:
    """One list of equal phrases for each form."""
    members = [[one] if isinstance(one, str) else one for one in group] if isinstance(group, list) else []
    is_even = len({len(one) if isinstance(one, list) else 0 for one in members}) == 1 and members[0]
    if len(members) < 2 or not is_even:
        raise ConfigError(
            f"{file}: equal: a group is two phrases or more, or as many lists of their forms of one length,"
            f" got {group!r}"
        )
    for column in zip(*members, strict=True):
        yield [_phrase(file, "equal", one) for one in column]


def _phrase(file: Path, key: str, text: object) -> Words:
    words = phrase_of(text) if isinstance(text, str) else None
    if words is None or len(words) > _MAX_WORDS:
        raise ConfigError(
            f"{file}: {key}: a phrase is 1 to {_MAX_WORDS} words without punctuation between them,"
            f" got {text!r}"
        )
    return words


def _other_forms(column: Sequence[Words]) -> Iterator[tuple[Words, str]]:
    """Of single words in their plain form."""
    if any(len(words) > 1 or read_word(words[0]).form != "base" for words in column):
        return
    for form in INFLECTIONS:
        if not is_regular(column[0][0], form):
            continue
        written = inflections(column[0][0], form)
        for words in column if written else ():
            yield from (((one,), written[0]) for one in inflections(words[0], form))
