"""Which policy keeps what is worth most, under a quarter of what a workload would fill: a simulation of
`rushes.reuse.eviction` over clips of several sizes."""

from __future__ import annotations

import heapq
import zlib
from dataclasses import dataclass, replace
from typing import Any

from rushes.profiling.workloads.base import load_workload
from rushes.reuse.eviction import POLICIES, Policy, Usage

SIZES = ((832, 480, 81, 4), (832, 480, 81, 40), (1280, 720, 81, 4), (480, 272, 33, 20), (832, 480, 33, 40))
"""Width, height, frames and steps of what clients ask for; a prompt always asks for the same."""

SHARE = 0.25
"""Of the bytes of all clips of a workload: what the cache may hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """What a prompt makes.

    Attributes:
        seconds: of device that it takes: grows with tokens and with their square.
        nbytes: of its snapshots, or of the file: grows with tokens.
    """

    seconds: float
    nbytes: int


def clip_of(prompt: str) -> Clip:
    """Of A14B's tokens, by the prompt's own size."""
    width, height, frames, steps = SIZES[zlib.crc32(prompt.encode()) // 7 % len(SIZES)]
    tokens = width // 16 * (height // 16) * ((frames - 1) // 4 + 1)
    step_s = 2.2 * tokens / 32_760 * (0.5 + 0.5 * tokens / 32_760)
    return Clip(seconds=steps * step_s + 1.5 * tokens / 32_760, nbytes=tokens * 4 * 16 * 6)


class Cache:
    """One bounded cache under one policy."""

    def __init__(self, policy: Policy, max_bytes: int) -> None:
        self._policy, self._room, self._floor = policy, max_bytes, 0.0
        self._kept: dict[str, tuple[Usage, float]] = {}
        self._heap: list[tuple[float, str]] = []

    def ask(self, key: str, clip: Clip, at: float) -> bool:
        """Whether it is there; it is afterwards."""
        found = self._kept.get(key)
        if found is None:
            usage = Usage(created_at=at, used_at=at, hits=0, saved_s=clip.seconds, nbytes=clip.nbytes)
            self._room -= clip.nbytes
        else:
            usage = replace(found[0], hits=found[0].hits + 1, used_at=at)
        self._put(key, usage)
        while self._room < 0:
            self._evict(key)
        return found is not None

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
            self._room += usage.nbytes
            self._floor = max(self._floor, score)
            break
        for entry in held:
            heapq.heappush(self._heap, entry)


def policies(name: str, share: float = SHARE) -> dict[str, Any]:
    """Seconds saved and hits of every policy, over a workload's whole stream."""
    prompts = load_workload(name).prompts()
    clips = {prompt.prompt: clip_of(prompt.prompt) for prompt in prompts}
    working_set = sum(clip.nbytes for clip in clips.values())
    found: dict[str, Any] = {}
    for policy_name, policy in POLICIES.items():
        cache, saved_s, hits = Cache(policy, int(share * working_set)), 0.0, 0
        for prompt in prompts:
            clip = clips[prompt.prompt]
            if cache.ask(prompt.prompt, clip, 1e9 + prompt.number):
                saved_s, hits = saved_s + clip.seconds, hits + 1
        found[policy_name] = {"device s saved": round(saved_s), "hits": round(hits / len(prompts), 4)}
    unbounded = Cache(POLICIES["lru"], 2 * working_set)
    most = sum(
        clips[p.prompt].seconds for p in prompts if unbounded.ask(p.prompt, clips[p.prompt], 1e9 + p.number)
    )
    return {"policies": found, "without bound, s": round(most), "share of the working set": share}
