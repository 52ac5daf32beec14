"""A prompt as clauses of phrases: as much grammar as tells who does what, without a parser.

A phrase starts at a preposition or at an article; a clause at a comma, at "and" or at "while".
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from rushes.reuse.inflection import Word, read_word
from rushes.reuse.lexicon import lexicon

_TOKEN = re.compile(r"(?<![\w])[-+]?\d+(?:[.,:/]\d+)*\w*|[^\W\d_]+|\d+\w*|[,;:.!?()\[\]\n]|[^\s\w]|_")
_BREAKS = frozenset(",;:.!?()[]")
_SILENT = frozenset("-–—\"'`“”‘’/\\|*~")
_SHORT = re.compile(r"\b(is|are|was|were|do|does|did|has|have|can|could|wo|would|should)n't\b")
_UNITS = (
    *("zero", "one", "two", "three", "four", "five", "six"),
    *("seven", "eight", "nine", "ten", "eleven", "twelve"),
)


@dataclass(frozen=True, slots=True)
class Phrase:
    """Words that stay together.

    Attributes:
        preposition: that it starts with; "" for none.
        stems: in their order.
        is_owned: starts with "his", "her", ..., so that it is clear whose it is.
        last: the last word, which may be a verb that stands behind its phrase.
    """

    preposition: str
    stems: tuple[str, ...]
    is_owned: bool = False
    last: Word | None = None


Clause = tuple[Phrase, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A prompt, read.

    Attributes:
        words: that count, by stem.
        adverbs: that may stand anywhere, in their order.
        clauses: in their order.
        is_joined: of each clause, whether "and" stands before it.
    """

    words: tuple[Word, ...]
    adverbs: tuple[str, ...]
    clauses: tuple[Clause, ...]
    is_joined: tuple[bool, ...]


@lru_cache(maxsize=4096)
def read(prompt: str) -> Reading:
    """The clauses and phrases of a prompt."""
    reader = _Reader()
    tokens = _tokens(prompt)
    for number, token in enumerate(tokens):
        reader.take(token, tokens[number - 1] if number else "", tokens[number + 1 : number + 3])
    return reader.finish()


def _tokens(prompt: str) -> Sequence[str]:
    text = unicodedata.normalize("NFKC", prompt).casefold().replace("’", "'")
    text = _SHORT.sub(lambda match: _whole_verb(match[1]) + " not", text.replace("can't", "can not"))
    text = _spellings().sub(lambda match: lexicon().spellings[match[0]], text)
    tokens = [token for token in _TOKEN.findall(text) if token not in _SILENT]
    return _joined([_numeral(token) for token in tokens])


@lru_cache(maxsize=1)
def _spellings() -> re.Pattern[str]:
    longest_first = sorted(lexicon().spellings, key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)")


def _whole_verb(verb: str) -> str:
    return {"wo": "will"}.get(verb, verb)


def _numeral(token: str) -> str:
    return _UNITS[int(token)] if token.isascii() and token.isdigit() and int(token) <= 12 else token


def _joined(tokens: Sequence[str]) -> Sequence[str]:
    """With "a few" as one."""
    found: list[str] = []
    for token in tokens:
        if found and found[-1] == "a" and token in ("few", "little"):
            found[-1] = f"a {token}"
        else:
            found.append(token)
    return found


class _Reader:
    """Where the reading of one prompt stands."""

    def __init__(self) -> None:
        self._words: list[Word] = []
        self._adverbs: list[str] = []
        self._clauses: list[Clause] = []
        self._joined: list[bool] = []
        self._clause: list[Phrase] = []
        self._is_joined = False
        self._preposition, self._stems = "", list[str]()
        self._is_owned = False
        self._last: Word | None = None

    def take(self, token: str, before: str, behind: Sequence[str]) -> None:
        known = lexicon()
        if token in _BREAKS or token in known.conjunctions:
            self._end_clause(is_joined=token == "and")
        elif token in known.clauses:
            self._end_clause(is_joined=False)
            self._add(_plain(token))
        elif token in known.adverbs or (token.endswith("ly") and token not in known.not_adverbs):
            self._adverbs.append(token)
        elif token in known.prepositions:
            self._end_phrase()
            self._open(preposition=token)
            self._words.append(_plain(token))
        else:
            self._take_word(token, before, behind)

    def finish(self) -> Reading:
        self._end_clause(is_joined=False)
        return Reading(
            words=tuple(sorted(self._words, key=lambda word: (word.stem, word.form, word.text))),
            adverbs=tuple(self._adverbs),
            clauses=_with_lone_phrases(self._clauses),
            is_joined=tuple(self._joined),
        )

    def _take_word(self, token: str, before: str, behind: Sequence[str]) -> None:
        known = lexicon()
        if token in known.determiners and not self._is_fresh(before):
            self._end_phrase()
            self._open(preposition="")
        if token in known.possessives:
            self._is_owned = True
        if token in known.articles and not (token != "the" and known.same_plural & {*behind}):
            return
        if token in known.auxiliaries or token in known.relatives:
            return
        if token in ("do", "does", "did") and behind[:1] == ["not"]:
            return
        word = read_word(token)
        is_done_to = before in known.auxiliaries or behind[:1] == ["by"]
        if word.form == "ed" and is_done_to:
            word = Word(text=word.text, stem=word.stem, form="passive")
        self._add(word)

    def _is_fresh(self, before: str) -> bool:
        """Whether the phrase has just begun, or is held together by "of" or "not"."""
        return before == "of" or not self._stems or lexicon().classes.get(before) == "negation"

    def _add(self, word: Word) -> None:
        self._words.append(word)
        self._stems.append(word.stem)
        self._last = word

    def _open(self, *, preposition: str) -> None:
        self._preposition, self._stems = preposition, list[str]()
        self._is_owned, self._last = False, None

    def _end_phrase(self) -> None:
        if self._stems or self._preposition:
            phrase = Phrase(self._preposition, tuple(self._stems), self._is_owned, self._last)
            self._clause.append(phrase)
        self._open(preposition="")

    def _end_clause(self, *, is_joined: bool) -> None:
        self._end_phrase()
        if self._clause:
            self._clauses.append(tuple(self._clause))
            self._joined.append(self._is_joined)
        self._clause, self._is_joined = [], is_joined


def _plain(token: str) -> Word:
    return Word(text=token, stem=token, form="base")


def _with_lone_phrases(clauses: Sequence[Clause]) -> tuple[Clause, ...]:
    """Phrases with prepositions alone belong to a neighbour: the next one at the start, else the one before.

    What is left empty stays as an empty clause, so that clauses keep their numbers.
    """
    found: list[Clause] = list(clauses)
    for number, clause in enumerate(found):
        if len(found) == 1 or any(not phrase.preposition for phrase in clause):
            continue
        if number == 0:
            found[1], found[0] = clause + found[1], ()
        else:
            home = next((n for n in range(number - 1, -1, -1) if found[n]), None)
            if home is not None:
                found[home], found[number] = found[home] + clause, ()
    return tuple(found)


def variants(reading: Reading) -> Iterator[tuple[Clause, ...]]:
    """The clauses, and other orders of the same words that mean the same."""
    yield reading.clauses
    yield from _inverted(reading.clauses)
    yield from _conjuncts_swapped(reading)


def _inverted(clauses: tuple[Clause, ...]) -> Iterator[tuple[Clause, ...]]:
    """ "On the lake drifts a boat" as "on the lake a boat drifts": one does something, nobody else."""
    for number, clause in enumerate(clauses):
        if len(clause) < 2 or clause[-1].preposition or any(not one.preposition for one in clause[:-1]):
            continue
        verb = clause[-2].last
        if verb is None or verb.form not in ("s", "ed") or len(clause[-2].stems) < 2:
            continue
        place = Phrase(clause[-2].preposition, clause[-2].stems[:-1], clause[-2].is_owned)
        doer = Phrase("", (*clause[-1].stems, verb.stem), clause[-1].is_owned)
        yield (*clauses[:number], (*clause[:-2], place, doer), *clauses[number + 1 :])


def _conjuncts_swapped(reading: Reading) -> Iterator[tuple[Clause, ...]]:
    """ "A cat and a dog play" as "a dog and a cat play"."""
    for number in range(1, len(reading.clauses)):
        left, right = reading.clauses[number - 1], reading.clauses[number]
        if not (reading.is_joined[number] and left and right) or left[-1].preposition or right[0].preposition:
            continue
        moved, kept = left[-1].stems, right[0].stems
        # A list at the clause's end, or one at its start that somebody does something with.
        ends = [len(kept)] if len(right) == 1 else []
        for split in (*(range(1, len(kept)) if len(left) == 1 else ()), *ends):
            swapped = (*left[:-1], Phrase("", kept[:split])), (Phrase("", moved + kept[split:]), *right[1:])
            yield (*reading.clauses[: number - 1], *swapped, *reading.clauses[number + 1 :])
