"""Workloads on a real gateway and store, with a worker whose stages sleep: how long clients wait."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.reuse_rates import STEPS
from benchmarks.service_processes import Service

from rushes.client import Client
from rushes.profiling.workloads.base import LabelledPrompt, load_workload

PACE = ("--text-s", "0.001", "--step-s", "0.02", "--decode-s", "0.02")
FIELDS = {"width": 64, "height": 64, "num_frames": 9, "num_inference_steps": STEPS}
LOAD = 0.9
"""Of what one worker can do without reuse: the rate of arrivals under queueing."""


class Sender:
    """Asks for prompts of one workload over HTTP, edits as edits of what they change."""

    def __init__(self, client: Client, prompts: Sequence[LabelledPrompt], cache: str) -> None:
        self._client, self._prompts, self._cache = client, prompts, cache
        self._ids: dict[int, str] = {}
        self.waits: list[tuple[str, float]] = []
        self.device_s = 0.0
        self._lock = threading.Lock()

    def send(self, number: int) -> None:
        """Ask, and wait for the clip's end."""
        prompt = self._prompts[number]
        call = prompt
        while call.kind == "exact" and call.of is not None:  # who repeats a request repeats its call
            call = self._prompts[call.of]
        parent = self._ids.get(-1 if call.of is None else call.of)
        begin = time.perf_counter()
        if call.kind == "edit" and parent is not None and self._cache == "on":
            clip = self._client.remix(parent, prompt.prompt)
        else:
            clip = self._client.create(prompt.prompt, seed=prompt.seed, cache=self._cache, **FIELDS)
        if clip.status != "completed":
            clip.wait()
        seconds = time.perf_counter() - begin
        with self._lock:
            self._ids[number] = clip.id
            self.waits.append((clip.video["cache"]["kind"], seconds))
            self.device_s += clip.video["actual_s"] or 0.0


def one_by_one(folder: Path, name: str, num: int) -> dict[str, Any]:
    """The first `num` requests, each after the end of the one before: no queue."""
    with Service(folder, gateway=("--no-auth", "--latent-reuse", "on"), pace=PACE) as service:
        _, url = service.start_gateway()
        service.start_worker()
        with Client(url) as client:
            sender = Sender(client, load_workload(name).prompts(num), "on")
            for number in range(num):
                sender.send(number)
    return _report(sender)


def queued(folder: Path, name: str, num: int, *, cache: str, clip_s: float) -> dict[str, Any]:
    """The same as they come: at random times, at `LOAD` of what the worker can do without reuse."""
    chance = random.Random(0)
    with Service(folder, gateway=("--no-auth", "--latent-reuse", "on"), pace=PACE) as service:
        _, url = service.start_gateway()
        service.start_worker()
        with Client(url) as client:
            sender = Sender(client, load_workload(name).prompts(num), cache)
            threads = [threading.Thread(target=sender.send, args=(number,)) for number in range(num)]
            for thread in threads:
                thread.start()
                time.sleep(chance.expovariate(LOAD / clip_s))
            for thread in threads:
                thread.join()
    return _report(sender)


def _report(sender: Sender) -> dict[str, Any]:
    kinds = sorted({kind for kind, _ in sender.waits})
    waits = {kind: [wait for each, wait in sender.waits if each == kind] for kind in kinds}
    return {
        "requests": len(sender.waits),
        "shares": {kind: round(len(found) / len(sender.waits), 4) for kind, found in waits.items()},
        "p50 ms": {kind: _ms(found, 50) for kind, found in waits.items()},
        "p50 ms of all": _ms([wait for _, wait in sender.waits], 50),
        "p95 ms of all": _ms([wait for _, wait in sender.waits], 95),
        "mean ms of all": round(1000 * float(np.mean([wait for _, wait in sender.waits])), 1),
        "device s": round(sender.device_s, 2),
    }


def _ms(seconds: Sequence[float], percent: float) -> float:
    return round(1000 * float(np.percentile(seconds, percent)), 1)
