"""Whether two prompts that are near as vectors mean the same: what no threshold can tell.

Sentence encoders put "from left to right" next to "from right to left" (cosine 0.997). Here every word that
means something must be on both sides, numbers and plurals included, and those who do something must stand in
the same order. Verbs may be inflected, and clauses and phrases moved where that changes nothing. Synonyms are
refused: a miss costs time, a wrong video costs trust.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence, Set
from functools import cache
from hashlib import blake2b

from rushes.reuse.inflection import Word, is_same_word, read_word
from rushes.reuse.lexicon import fingerprint, lexicon
from rushes.reuse.phrases import Clause, Phrase, read, variants

_MAX_PHRASES = 12
"""Of a clause whose phrases may have been moved: longer ones must stand as they are."""

_MAX_CHARS = 600
"""Of a prompt that is read: comparing takes time with the square of its clauses."""

_ORDER = ("negation", "number", "direction", "colour", "camera")


def differs(one: str, other: str) -> str | None:
    """Why two prompts do not mean the same; None when they do, as far as words and their order can tell.

    The answer starts with its kind: "direction", "number", "negation", "colour", "camera", "words", "order",
    and "length" of prompts above 600 characters, which mean the same only when they are equal.

    Example:
        >>> differs("A red ball rolls over snow", "a red ball rolling over snow")
        >>> differs("A cat chases a dog", "A dog chases a cat")
        'order: the same words in another order'
        >>> differs("two dogs run", "three dogs run")
        "number: 'two' is not 'three'"
    """
    if one == other:
        return None
    if max(len(one), len(other)) > _MAX_CHARS:
        return f"length: above {_MAX_CHARS} characters, and not equal"
    first, second = read(one), read(other)
    if difference := _words_differ(first.words, second.words):
        return difference
    if first.adverbs != second.adverbs:
        return _named([*first.adverbs], [*second.adverbs])
    if any(_are_alike(clauses, second.clauses) for clauses in variants(first)):
        return None
    if any(_are_alike(first.clauses, clauses) for clauses in variants(second)):
        return None
    return "order: the same words in another order"


def gist(prompt: str) -> str:
    """16 hex digits: prompts of two gists differ, so that only those of one have to be compared. It follows
    the words without their forms and order, and the word lists; of a prompt too long to be compared, all."""
    stems = [prompt] if len(prompt) > _MAX_CHARS else [word.stem for word in read(prompt).words]
    return blake2b("\n".join((fingerprint(), *stems)).encode(), digest_size=8).hexdigest()


def _words_differ(first: Sequence[Word], second: Sequence[Word]) -> str | None:
    """Words of one stem are matched in the order of their forms."""
    if len(first) == len(second) and all(map(_can_match, first, second)):
        return None
    left, right = _by_stem(first), _by_stem(second)
    mine: list[str] = []
    others: list[str] = []
    for stem in dict.fromkeys((*left, *right)):
        ours, theirs = left.get(stem, []), right.get(stem, [])
        if len(ours) != len(theirs) or not all(map(is_same_word, ours, theirs)):
            mine += [word.text for word in ours]
            others += [word.text for word in theirs]
    return _named(mine, others)


def _can_match(one: Word, other: Word) -> bool:
    return one is other or (one.stem == other.stem and is_same_word(one, other))


def _by_stem(words: Sequence[Word]) -> dict[str, list[Word]]:
    found: dict[str, list[Word]] = {}
    for word in words:
        found.setdefault(word.stem, []).append(word)
    return found


def _named(mine: Sequence[str], others: Sequence[str]) -> str:
    """What differs, under the first class that one of the words is of."""
    left, right = Counter(mine) - Counter(others), Counter(others) - Counter(mine)
    classes = lexicon().classes
    words = [*left, *right]
    of = {word: classes.get(word, classes.get(read_word(word).stem)) for word in words}
    kind = next((name for name in _ORDER if name in of.values()), "words")
    if kind == "words" and _is_number(words):
        kind = "number"
    shown = {word for word in words if of[word] == kind} or {*words}
    return f"{kind}: {_quoted(left, shown)} is not {_quoted(right, shown)}"


def _is_number(words: Sequence[str]) -> bool:
    if any(word[:1].isdigit() for word in words):
        return True
    return any(word + "s" in words or word + "es" in words for word in words)


def _quoted(words: Iterable[str], shown: Set[str]) -> str:
    return " ".join(repr(word) for word in words if word in shown) or "nothing"


def _are_alike(first: Sequence[Clause], second: Sequence[Clause]) -> bool:
    """Whether each clause of one is one of the other; clauses may stand in any order."""
    left = [clause for clause in first if clause]
    rest = [clause for clause in second if clause]
    if len(left) != len(rest):
        return False
    for clause in left:
        match = next((other for other in rest if _is_same_clause(clause, other)), None)
        if match is None:
            return False
        rest.remove(match)
    return True


def _is_same_clause(one: Clause, other: Clause) -> bool:
    """Whether at most one run of phrases with prepositions has been moved, and none from its owner."""
    ours, theirs = [_content(phrase) for phrase in one], [_content(phrase) for phrase in other]
    if ours == theirs:
        return True
    if Counter(ours) != Counter(theirs) or len(ours) > _MAX_PHRASES:
        return False
    if _owners(one) != _owners(other):
        return False
    return any(_with_moved(ours, *move) == theirs for move in _moves(one))


def _content(phrase: Phrase) -> tuple[str, tuple[str, ...]]:
    return phrase.preposition, phrase.stems


def _moves(clause: Clause) -> list[tuple[int, int, int]]:
    """(start, end, to): runs that may be moved, and to where."""
    count = len(clause)
    runs = [
        (start, end)
        for start in range(count)
        for end in range(start + 1, count + 1)
        if _can_move(clause[start:end])
    ]
    return [(start, end, to) for start, end in runs for to in range(count - (end - start) + 1)]


def _can_move(run: Sequence[Phrase]) -> bool:
    """Phrases with prepositions, and within them those that start with "his" or "her"."""
    return bool(run[0].preposition) and all(phrase.preposition for phrase in run)


def _with_moved(phrases: list[tuple[str, tuple[str, ...]]], start: int, end: int, to: int) -> object:
    rest = phrases[:start] + phrases[end:]
    return rest[:to] + phrases[start:end] + rest[to:]


def _owners(clause: Clause) -> Counter[object]:
    """Phrases that say what somebody has or wears, with what they stand behind."""
    owned = [
        (_content(phrase), _content(clause[number - 1]) if number else None)
        for number, phrase in enumerate(clause)
        if _is_attribute(phrase, clause[number + 1 : number + 2])
    ]
    return Counter(owned)


def _is_attribute(phrase: Phrase, behind: Sequence[Phrase]) -> bool:
    manners, clothes, colours = _attribute_stems()
    stems = frozenset(phrase.stems)
    if phrase.preposition == "with":
        is_clear = phrase.is_owned or any(one.is_owned for one in behind)
        return not is_clear and not manners & stems
    return phrase.preposition in ("in", "without") and bool(clothes & stems or stems <= colours)


@cache
def _attribute_stems() -> tuple[Set[str], Set[str], Set[str]]:
    """Of manners, of clothes, and of colours that can be worn: "in white", not "in the dark"."""
    known = lexicon()
    colours = {word for word, name in known.classes.items() if name == "colour"} - {"dark", "light"}
    manners, clothes, worn = (
        frozenset(read_word(word).stem for word in words) for words in (known.manners, known.clothes, colours)
    )
    return manners, clothes, worn
