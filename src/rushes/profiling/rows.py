"""Which row of the stage table a span belongs to. No torch here.

| span | attributes that count here | around what |
|---|---|---|
| request | | the whole job |
| resolve | | request checked, job made |
| load | stage | `Stage.prepare` |
| weights | part | a network read from its files, inside `load` |
| text_encode, denoise, vae_decode | is_first, expert | a unit: `rushes.pipelines.base.unit_span` |
| tokenize, encode_text | | inside the text encoder |
| noise | | initial noise |
| expert_weights | | a noise expert brought to the device, where only one has room |
| text_context | | a prompt's keys and values for all layers |
| forward | branch, is_cache_write | the transformer |
| vae_forward | is_first | the decoder |
| postprocess, to_host | | frames to uint8, and to the host |
| video_encode | frames, or is_edge | the video writer; at the edges it opens and finishes the file |
| solver | stage, expert | another engine's solver |

A span of any other name gets a row of its own name, under the stage around it; an attribute `stage` names the
stage where no span of it is open.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rushes.profiling.timeline import SpanTime
from rushes.trace import Span

STAGES = ("text_encode", "denoise", "vae_decode", "video_encode")
REQUEST = "request"
HANDLING = "handling"

_PARTS = {
    "request": HANDLING,
    "resolve": HANDLING,
    "load": HANDLING,
    "text_encode": HANDLING,
    "tokenize": "tokenizing",
    "encode_text": "encoder",
    "denoise": "solver and guidance",
    "solver": "solver and guidance",
    "noise": "initial noise",
    "expert_weights": "noise expert to the device",
    "text_context": "text keys and values",
    "vae_decode": HANDLING,
    "postprocess": "post-process to uint8",
    "to_host": "frames to the host",
}


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class RowKey:
    """A row of the stage table."""

    stage: str
    part: str

    def __str__(self) -> str:
        return f"{self.stage}: {self.part}"


def stage_of(span: Span) -> str:
    """The stage that a span runs in; "request" for what lies outside of all."""
    at: Span | None = span
    while at is not None:
        if at.name in STAGES:
            return at.name
        if "stage" in at.attributes:
            return str(at.attributes["stage"])
        at = at.parent
    return REQUEST


def row_of(span: Span, *, num_experts: int = 1) -> RowKey:
    """The row that a span's own time is charged to.

    Args:
        num_experts: noise experts of the model; with two, forwards tell which one ran.
    """
    return RowKey(stage=stage_of(span), part=_part(span, num_experts))


def _part(span: Span, num_experts: int) -> str:
    if span.name == "forward":
        return _forward_part(span, num_experts)
    if span.name == "vae_forward":
        return "first latent" if span.attributes.get("is_first") else "other latents"
    if span.name == "video_encode":
        return "open and finish the file" if span.attributes.get("is_edge") else "frames"
    return _PARTS.get(span.name, span.name)


def _forward_part(span: Span, num_experts: int) -> str:
    branch = "cache write" if span.attributes.get("is_cache_write") else span.attributes.get("branch")
    expert = expert_of(span)
    return (
        f"{branch or 'forward'}, {expert} noise" if num_experts > 1 and expert else str(branch or "forward")
    )


def expert_of(span: Span) -> str | None:
    """The noise expert of the step that a span belongs to."""
    at: Span | None = span
    while at is not None:
        if "expert" in at.attributes:
            return str(at.attributes["expert"])
        at = at.parent
    return None


def is_unit(span: Span) -> bool:
    """Whether a span counts as a unit of its row: not one opened twice, from inside and outside."""
    return span.parent is None or span.parent.name != span.name


def num_experts(spans: Iterable[Span]) -> int:
    """How many noise experts have run."""
    return max(1, len({span.attributes["expert"] for span in spans if "expert" in span.attributes}))


def keyed(times: Sequence[SpanTime]) -> list[tuple[RowKey, SpanTime]]:
    """Every span with its row."""
    experts = num_experts(time.span for time in times)
    return [(row_of(time.span, num_experts=experts), time) for time in times]


def in_order(keys: Iterable[RowKey]) -> list[RowKey]:
    """Rows as a table shows them: stages as they run, what lies outside last; parts as first met."""
    places = {stage: place for place, stage in enumerate(STAGES)}
    return sorted(dict.fromkeys(keys), key=lambda key: places.get(key.stage, len(places)))
