"""What an engine saved by reuse, seen from outside: from the requests' labels and their device seconds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rushes.profiling.bench.answers import Answer
from rushes.profiling.workloads.base import LabelledPrompt
from rushes.profiling.workloads.mix import mix_of

FREE_SHARE = 0.05
"""Of a full run's device seconds: a request that took no more was served from what was stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Savings:
    """Of the completed requests of a load.

    Attributes:
        full_s: device seconds of a new request, the median.
        free_share: of requests that took next to nothing.
        free_bound: the share that are not new: the most that can take next to nothing.
        saved_share: of the device seconds that all of them would have taken in full.
        saved_bound: the same, had everything that is not new been free.
        p50_s: the median end to end, by kind of request.
    """

    full_s: float
    free_share: float
    free_bound: float
    saved_share: float
    saved_bound: float
    p50_s: dict[str, float]


def savings(prompts: Sequence[LabelledPrompt], answers: Sequence[Answer]) -> Savings | None:
    """Of answers to these prompts, in order; None where no new request was completed."""
    completed = [
        (prompt, answer)
        for prompt, answer in zip(prompts, answers, strict=True)
        if answer.status == "completed" and answer.device_s is not None
    ]
    used = [answer.device_s or 0.0 for _, answer in completed]
    new = [seconds for seconds, (prompt, _) in zip(used, completed, strict=True) if prompt.kind == "new"]
    if not new:
        return None
    full_s, mix = statistics.median(new), mix_of([prompt for prompt, _ in completed])
    return Savings(
        full_s=full_s,
        free_share=sum(seconds <= FREE_SHARE * full_s for seconds in used) / len(used),
        free_bound=mix.hit_share,
        saved_share=1 - sum(used) / (full_s * len(used)),
        saved_bound=mix.hit_share,
        p50_s=_p50_by_kind(completed),
    )


def _p50_by_kind(completed: Sequence[tuple[LabelledPrompt, Answer]]) -> dict[str, float]:
    seconds: dict[str, list[float]] = {}
    for prompt, answer in completed:
        if answer.end_to_end_s is not None:
            seconds.setdefault(prompt.kind, []).append(answer.end_to_end_s)
    return {kind: statistics.median(values) for kind, values in seconds.items()}
