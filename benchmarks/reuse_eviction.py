"""Which policy keeps what is worth most, under a quarter and a tenth of what a workload would fill: a
simulation of `rushes.reuse.eviction` over clips of several sizes. A text that was asked before saves its
clip; another wording of a scene that is there, which equal words find, saves a part of its steps."""

from __future__ import annotations

import heapq
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rushes.profiling.workloads.base import LabelledPrompt, load_workload
from rushes.profiling.workloads.scenes import Scene
from rushes.reuse.eviction import POLICIES, Policy, Usage

SIZES = ((832, 480, 81, 4), (832, 480, 81, 40), (1280, 720, 81, 4), (480, 272, 33, 20), (832, 480, 33, 40))
"""Width, height, frames and steps of what clients ask for; a scene is always asked for in the same."""

SHARES = {"a quarter": 0.25, "a tenth": 0.1}
"""Of the bytes of all clips of a workload: what the cache may hold."""

STEPS_SAVED = 0.7
"""Of a clip's steps, by latents of the same meaning: 14 of 20 in `reuse_rates`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """What a prompt makes.

    Attributes:
        steps_s, rest_s: seconds of device for its steps and for the rest: they grow with tokens, those of
            steps with their square too.
        nbytes: of its snapshots: grows with tokens.
    """

    steps_s: float
    rest_s: float
    nbytes: int


def clip_of(scene: Scene) -> Clip:
    """Of A14B's tokens, by the scene's own size."""
    width, height, frames, steps = SIZES[zlib.crc32(repr(scene).encode()) // 7 % len(SIZES)]
    tokens = width // 16 * (height // 16) * ((frames - 1) // 4 + 1)
    step_s = 2.2 * tokens / 32_760 * (0.5 + 0.5 * tokens / 32_760)
    return Clip(steps_s=steps * step_s, rest_s=1.5 * tokens / 32_760, nbytes=tokens * 4 * 16 * 6)


class Cache:
    """One bounded cache under one policy."""

    def __init__(self, policy: Policy, max_bytes: float) -> None:
        self._policy, self._room, self._floor = policy, max_bytes, 0.0
        self._kept: dict[str, tuple[Usage, float]] = {}
        self._heap: list[tuple[float, str]] = []
        self._scenes: dict[str, Scene] = {}
        self._texts: dict[Scene, dict[str, None]] = {}  # that are kept, the oldest first

    def ask(self, prompt: LabelledPrompt) -> float:
        """Seconds that are saved; its clip is there afterwards."""
        text, clip, at = prompt.prompt, clip_of(prompt.scene), 1e9 + prompt.number
        like = text if text in self._kept else next(iter(self._texts.get(prompt.scene, ())), None)
        if like is not None:
            usage = self._kept[like][0]
            self._put(like, replace(usage, hits=usage.hits + 1, used_at=at))
        if like == text:
            return clip.steps_s + clip.rest_s
        usage = Usage(created_at=at, used_at=at, hits=0, saved_s=clip.steps_s, nbytes=clip.nbytes)
        self._put(text, usage)
        self._scenes[text] = prompt.scene
        self._texts.setdefault(prompt.scene, {})[text] = None
        self._room -= clip.nbytes
        while self._room < 0:
            self._evict(text)
        return 0.0 if like is None else STEPS_SAVED * clip.steps_s

    def _put(self, key: str, usage: Usage) -> None:
        score = self._policy(usage, self._floor)
        self._kept[key] = (usage, score)
        heapq.heappush(self._heap, (score, key))

    def _evict(self, spared: str) -> None:
        held = []
        while True:
            score, key = heapq.heappop(self._heap)
            if key not in self._kept or self._kept[key][1] != score:
                continue  # it was used since
            if key == spared:
                held.append((score, key))
                continue
            usage, _ = self._kept.pop(key)
            del self._texts[self._scenes[key]][key]
            self._room += usage.nbytes
            self._floor = max(self._floor, score)
            break
        for entry in held:
            heapq.heappush(self._heap, entry)


def policies(name: str) -> dict[str, Any]:
    """Seconds saved and hits of every policy, over a workload's whole stream."""
    prompts = load_workload(name).prompts()
    working_set = sum({prompt.prompt: clip_of(prompt.scene).nbytes for prompt in prompts}.values())
    most, _ = _saved(Cache(POLICIES["lru"], 2 * working_set), prompts)
    found: dict[str, Any] = {"without bound, s": round(most)}
    for label, share in SHARES.items():
        rows = {}
        for policy_name, policy in POLICIES.items():
            saved_s, hits = _saved(Cache(policy, share * working_set), prompts)
            rows[policy_name] = {"device s saved": round(saved_s), "hits": round(hits, 4)}
        found[label] = rows
    return found


def _saved(cache: Cache, prompts: Sequence[LabelledPrompt]) -> tuple[float, float]:
    """Seconds, and the share of requests that saved any."""
    saved = [cache.ask(prompt) for prompt in prompts]
    return sum(saved), sum(map(bool, saved)) / len(saved)
