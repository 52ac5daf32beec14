"""What a valid request asks that its model was not trained for: told, not refused. No torch.

A gateway shows the same notes as data: `notes_on(request)`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rushes.config import TOY_FOLDER
from rushes.models.lexicon import LEXICON, Lexicon, read_lexicon
from rushes.pipelines.rules import PipelineRules, load_rules
from rushes.types import GenerateRequest, VideoSpec

VOCABULARY = Path(__file__).parents[1] / "profiling" / "workloads" / "vocabulary.json"
"""The words of the toy's captions, written by `python -m benchmarks.vocabulary`."""

_JOINING = """a all an and are as at away be by down each for from her here his in into is it its near now of
off on onto or other out over pass passing past please some than that the their there this through
to together toward towards under up very we where which while who with you"""
FUNCTION_WORDS = frozenset(_JOINING.split())
"""Words that join others: of any prompt, and no wish that could be missed."""

FAR = 2.0
"""A clip is far from those that a model was trained with at so many times their pixels or frames, or at so
many times fewer pixels."""

FAR_SHAPE = 1.6
"""The same of width over height."""

_WORD = re.compile(r"\b[^\W\d_]+(?:'[^\W\d_]+)?\b")
"""In any script: those that the model cannot read are told too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestNote:
    """One thing that will probably not come out as asked.

    Attributes:
        field: of the request.
        message: a sentence for the user.
        values: what it is about, in the order of the request: the words, or the size.
    """

    field: str
    message: str
    values: tuple[str, ...]


def notes_on(request: GenerateRequest) -> tuple[RequestNote, ...]:
    """Words that the model does not know, and a size far from those that it was trained with.

    Raises:
        UnknownName: the request names no known pipeline.

    Example:
        >>> from rushes.pipelines.rules import load_rules, resolve
        >>> notes_on(resolve(load_rules("toy"), "a red dog and a blockchain"))[0].values
        ('blockchain',)
    """
    rules = load_rules(request.pipeline)
    found = (*_word_notes(rules, request.prompt), *_size_notes(rules, request.video))
    return tuple(found)


def unknown_words(prompt: str) -> tuple[str, ...]:
    """Words of a prompt that the toy was neither trained with nor reads as one that it was; each once."""
    known, _ = _toy_words()
    return tuple(word for word in _words(prompt) if word not in known)


def vocabulary() -> dict[str, tuple[str, ...]]:
    """What the toy can be asked for, by kind; most of it has other names that it knows too."""
    words = json.loads(VOCABULARY.read_text(encoding="utf-8"))
    return {
        "subjects": tuple(names[0][0] for names in words["subjects"]),
        "how many": tuple(words["counts"]),
        **{kind: tuple(words[kind]) for kind in ("sizes", "colours", "motions", "backgrounds", "cameras")},
    }


def _words(prompt: str) -> tuple[str, ...]:
    """As the toy reads them, each once, without those that only join others."""
    _, lexicon = _toy_words()
    words = _WORD.findall(lexicon(prompt).lower())
    return tuple(dict.fromkeys(word for word in words if word not in FUNCTION_WORDS))


def _word_notes(rules: PipelineRules, prompt: str) -> tuple[RequestNote, ...]:
    words = unknown_words(prompt) if rules.has_small_vocabulary else ()
    if not words:
        return ()
    named = ", ".join(repr(word) for word in words)
    rest = "is left to chance" if words == _words(prompt) else "is made from the rest of the prompt"
    message = f"{rules.name} does not know {named}; the clip {rest}"
    return (RequestNote(field="prompt", message=message, values=words),)


def _size_notes(rules: PipelineRules, video: VideoSpec) -> tuple[RequestNote, ...]:
    notes = []
    size = f"{video.width}x{video.height}"
    trained = ", ".join(f"{width}x{height}" for width, height in rules.sizes)
    if not any(_is_near(video, width, height) for width, height in rules.sizes):
        message = (
            f"{size} is far from what {rules.name} was trained with ({trained}); expect a poorer picture"
        )
        notes.append(RequestNote(field="size", message=message, values=(size,)))
    if video.num_frames > FAR * rules.video.num_frames:
        message = (
            f"{video.num_frames} frames are far more than the {rules.video.num_frames} that {rules.name} was"
            " trained with; expect the motion to fall apart"
        )
        notes.append(RequestNote(field="num_frames", message=message, values=(str(video.num_frames),)))
    return tuple(notes)


def _is_near(video: VideoSpec, width: int, height: int) -> bool:
    pixels = video.width * video.height / (width * height)
    shape = video.width * height / (video.height * width)
    return 1 / FAR <= pixels <= FAR and 1 / FAR_SHAPE <= shape <= FAR_SHAPE


@cache
def _toy_words() -> tuple[frozenset[str], Lexicon]:
    """Every word of the captions, and what reads other nouns as one of them."""
    known: set[str] = set()
    for text in _texts(json.loads(VOCABULARY.read_text(encoding="utf-8"))):
        known.update(_WORD.findall(text.lower()))
    return frozenset(known), read_lexicon(TOY_FOLDER / "tokenizer" / LEXICON)


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for pair in value.items() for part in pair for text in _texts(part)]
    return [text for part in value for text in _texts(part)] if isinstance(value, list) else []
