"""Streams without repetition: people who watch, and work that can wait."""

from __future__ import annotations

import random

from rushes.profiling.workloads.base import LabelledPrompt, Workload
from rushes.profiling.workloads.history import History
from rushes.profiling.workloads.scenes import draw_scene, draw_wording

NUM_REQUESTS = 200


def _all_new(name: str, seed: int) -> tuple[LabelledPrompt, ...]:
    chance = random.Random(f"{name} {seed}")
    history = History(chance)
    for number in range(NUM_REQUESTS):
        history.new(lambda: draw_scene(chance), draw_wording(chance), number)
    return tuple(history.prompts)


INTERACTIVE = Workload(
    name="interactive",
    title="200 different clips, fast preset, previews at every step, interactive lane",
    num_requests=NUM_REQUESTS,
    make=lambda seed: _all_new("interactive", seed),
    lane="interactive",
    preset="fast",
    preview_every=1,
)

BATCH = Workload(
    name="batch",
    title="200 different clips, quality preset, no previews, batch lane",
    num_requests=NUM_REQUESTS,
    make=lambda seed: _all_new("batch", seed),
    lane="batch",
    preset="quality",
)
