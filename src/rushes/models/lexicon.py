"""Words that the toy was not trained on, read as the nearest that it was: "a beagle" as "a dog".

A file has a line per trained noun, its singular and plural before a colon, then the nouns that are nearest to
it in meaning, singular, with their plural behind "=" where it is irregular; the line `keep` lists all names
that captions use, which stay. `training/lexicon.py` makes it, from WordNet and a sentence encoder.
"""

from __future__ import annotations

import lzma
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from rushes.errors import CheckpointError

LEXICON = "lexicon.txt.xz"
"""Its file in the toy's folder of the tokenizer."""

KEPT = "keep"
MAX_WORDS = 4
"""Of a name that is kept."""

_WORD = re.compile(r"[A-Za-z]+")
_GAP = re.compile(r"[ -]")


class Lexicon:
    """Replaces nouns of one or two words, in either number; all other text stays as it is.

    A name that is kept may be written with or without the gap between its words. A noun right before one is
    left as it is.

    Example:
        >>> lexicon = Lexicon(["keep: oak tree, teapot", "dog, dogs: beagle, guide dog", "tree, trees: oak"])
        >>> lexicon("Two Beagles and a guide dog under an oak tree")
        'Two dogs and a dog under an oak tree'
        >>> lexicon("a tea pot under an oaktree")
        'a teapot under an oak tree'
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self._nouns: dict[str, str | None] = {}
        self._closed: dict[str, str] = {}
        for line in lines:
            forms, _, words = line.strip().partition(": ")
            one, _, many = forms.partition(", ")
            for word in filter(None, words.split(", ")):
                noun, *plurals = _forms(word)
                self._nouns[noun] = None if forms == KEPT else one
                self._nouns.update(dict.fromkeys(plurals, None if forms == KEPT else many))
        for name in [name for name, noun in self._nouns.items() if noun is None]:
            self._closed.setdefault(_GAP.sub("", name), name)

    def __call__(self, prompt: str) -> str:
        """The prompt in words that the model knows."""
        words = list(_WORD.finditer(prompt))
        pieces, end, i = [], 0, 0
        while i < len(words):
            span, noun = self._noun_at(prompt, words, i)
            if noun is not None and not self._is_before_known(prompt, words, i + span):
                pieces += [prompt[end : words[i].start()], noun]
                end = words[i + span - 1].end()
            i += span
        return "".join([*pieces, prompt[end:]])

    def _is_before_known(self, prompt: str, words: list[re.Match[str]], i: int) -> bool:
        """Whether the i-th word begins a name that captions use, right behind the word before: that one says
        then of what kind it is ("an orange dog"), and is none itself."""
        if i == len(words) or not prompt[words[i - 1].end() : words[i].start()].isspace():
            return False
        span, _ = self._noun_at(prompt, words, i)
        text = prompt[words[i].start() : words[i + span - 1].end()].lower()
        return text in self._nouns and self._nouns[text] is None

    def _noun_at(self, prompt: str, words: list[re.Match[str]], i: int) -> tuple[int, str | None]:
        """How many words from the i-th on are one noun, the longest there is, and what it is replaced by."""
        for span in range(min(MAX_WORDS, len(words) - i), 0, -1):
            text = prompt[words[i].start() : words[i + span - 1].end()].lower()
            if text in self._nouns:
                return span, self._nouns[text]
            closed = _GAP.sub("", text)
            if closed in self._closed:
                return span, self._closed[closed]
        return 1, None


def _forms(word: str) -> Iterator[str]:
    """An entry's singular, then its plurals."""
    noun, *irregular = word.split("=")
    yield noun
    yield plural(noun)
    yield from irregular


def plural(noun: str) -> str:
    """The regular plural of an English noun.

    Example:
        >>> [plural(noun) for noun in ("hound", "fly", "donkey", "ostrich")]
        ['hounds', 'flies', 'donkeys', 'ostriches']
    """
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return f"{noun}es"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}s"


def read_lexicon(file: Path) -> Lexicon:
    """The lexicon of an xz-compressed file. Raises `CheckpointError` when it cannot be read."""
    try:
        return Lexicon(lzma.decompress(file.read_bytes()).decode("utf-8").splitlines())
    except (OSError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise CheckpointError(f"lexicon {file}: cannot be read ({error})") from error
