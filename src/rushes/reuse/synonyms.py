"""Words that mean the same to a model, brought to one form before prompts are compared.

A list is an operator's or a model's statement about that model's text encoder, like the equivalent synonyms
of a search engine. Matching is that of a search engine too: at each word the longest phrase of the list is
taken, and what was put in its place is not read again. A phrase is words with nothing but white space between
them, so none reaches over a comma, a full stop or a bracket.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

_WORD = re.compile(r"(?:(?<!\w)[-+]?\d+(?:[.,:/]\d+)*\w*|[^\W_]+)(?:[-'][^\W_]+)*")
"""Numbers with sign, point and unit are one word, so that an entry for "2" leaves "2.5" and "-2" alone."""

_VERSION = 1
"""Rises when the same list would bring prompts to other forms."""

Words = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Synonyms:
    """A list, ready to be used.

    Attributes:
        table: what is written instead of a phrase, by its words.
        openings: what a prompt may begin with and means nothing, the longest first.
        keep: phrases that mean something of their own: a prompt in which replacements would make one stays as
            it is, so that "a hot puppy" is no "hot dog".
        models: pipelines that it is for; none for all.
        fingerprint: 16 hex digits: forms of two lists cannot be compared. "" for a list that changes nothing.
    """

    table: Mapping[Words, str]
    openings: Sequence[str] = ()
    keep: Sequence[Words] = ()
    models: frozenset[str] = frozenset()
    fingerprint: str = field(init=False)
    _reach: Mapping[str, int] = field(init=False)  # words of the longest phrase, by its first word

    def __post_init__(self) -> None:
        reach: dict[str, int] = {}
        for words in self.table:
            reach[words[0]] = max(reach.get(words[0], 0), len(words))
        object.__setattr__(self, "_reach", reach)
        object.__setattr__(self, "fingerprint", self._digest())

    def _digest(self) -> str:
        if not self.table and not self.openings:
            return ""
        lines = sorted(f"{' '.join(words)}={text}" for words, text in self.table.items())
        told = "\n".join((str(_VERSION), *lines, "", *self.openings, "", *map(" ".join, self.keep)))
        return blake2b(told.encode(), digest_size=8).hexdigest()

    def canonical(self, prompt: str) -> str:
        """The prompt in the list's words, in small letters; as it is where the list is empty.

        Example:
            >>> pets = Synonyms(table={("puppy",): "dog", ("sea", "lion"): "seal"}, openings=("a clip of",))
            >>> pets.canonical("A clip of a puppy, a sea lion, the sea, lion")
            'a dog, a seal, the sea, lion'
        """
        if not self.fingerprint:
            return prompt
        text = self._without_openings(folded(prompt))
        words = list(_WORD.finditer(text))
        parts: list[str] = []
        place, end = 0, 0
        while place < len(words):
            num, written = self._longest(text, words, place)
            if num:
                parts += text[end : words[place].start()], written
                end = words[place + num - 1].end()
            place += max(num, 1)
        written = "".join(parts) + text[end:]
        return text if self._makes_kept(text, written) else written

    def _makes_kept(self, text: str, written: str) -> bool:
        """Whether replacements put a phrase to keep where there was none."""
        before, after = ([match[0] for match in _WORD.finditer(each)] for each in (text, written))
        return any(_count(after, words) > _count(before, words) for words in self.keep)

    def _longest(self, text: str, words: Sequence[re.Match[str]], place: int) -> tuple[int, str]:
        """How many words from `place` on are the longest phrase, and what to write; (0, "") for none."""
        taken: list[str] = []
        best, end = (0, ""), 0
        for word in words[place : place + self._reach.get(words[place][0], 0)]:
            if taken and text[end : word.start()] != " ":
                break
            taken.append(word[0])
            end = word.end()
            if (written := self.table.get(tuple(taken))) is not None:
                best = len(taken), written
        return best

    def _without_openings(self, text: str) -> str:
        """ "We see a video of a dog" has two. What is an opening and nothing else stays."""
        while True:
            opening = next((one for one in self.openings if _begins(text, one)), None)
            rest = text if opening is None else text[len(opening) :].lstrip(" :")
            if rest in ("", text):
                return text
            text = rest


NO_SYNONYMS = Synonyms(table={})


def folded(text: str) -> str:
    """As the meaning guard reads it: small letters, straight apostrophes, one space between words."""
    text = unicodedata.normalize("NFKC", text).casefold().replace("’", "'").replace("‐", "-")
    return " ".join(text.split())


def phrase_of(text: str) -> Words | None:
    """The words of a phrase of a list; None for one that is empty or holds punctuation between words."""
    text = folded(text)
    words = tuple(match[0] for match in _WORD.finditer(text))
    return words if words and " ".join(words) == text else None


def _count(words: Sequence[str], phrase: Words) -> int:
    starts = range(len(words) - len(phrase) + 1)
    return sum(tuple(words[start : start + len(phrase)]) == phrase for start in starts)


def _begins(text: str, opening: str) -> bool:
    rest = text[len(opening) :]
    return text.startswith(opening) and not (
        opening[-1].isalnum() and (rest[:1].isalnum() or rest[:1] in "-'_")
    )
