"""What a whole workload takes from earlier requests: keys, encoder, guard and staircase as in the gateway,
with a clip's time by a rule instead of a worker."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from rushes.pipelines.rules import load_rules, resolve
from rushes.profiling.workloads.base import LabelledPrompt, load_workload
from rushes.reuse.encoder import SentenceEncoder
from rushes.reuse.entries import Snapshot
from rushes.reuse.keys import exact_key
from rushes.reuse.latent_cache import LatentCache
from rushes.reuse.levels import lowest_kept, source_at
from rushes.reuse.staircase import pick_snapshot
from rushes.reuse.store import ReuseStore
from rushes.reuse.synonyms import NO_SYNONYMS, Synonyms
from rushes.sampling.levels import LEVELS, schedule_of, steps_at
from rushes.server.edits import STRENGTH
from rushes.server.latent_reuse import LatentReuse
from rushes.server.reuse import reason_of
from rushes.server.reuse_setup import synonyms_by_pipeline
from rushes.stores.disk import BlobFolder
from rushes.types import GenerateRequest

STEPS = 20
STEP_S, REST_S = 1.0, 3.0
"""Of a fresh clip: 23 s, of which 3 s are text, decode and video."""

FULL_S = STEPS * STEP_S + REST_S
REWORDED = ("rewording", "miss")
IDENTITY, TENANT = "bench", "bench"


@dataclass(slots=True)
class Taken:
    """Counts of one workload.

    Attributes:
        seconds: device seconds of each request.
        kinds: of answers, by the label of the request.
        num_false: latent hits on a clip of another scene.
    """

    seconds: list[float] = field(default_factory=list)
    kinds: Counter[tuple[str, str]] = field(default_factory=Counter)
    misses: Counter[str] = field(default_factory=Counter)
    steps_saved: Counter[str] = field(default_factory=Counter)
    num_false: int = 0

    def share(self, kind: str) -> float:
        """Of all requests that were answered so."""
        num = sum(count for (_, answer), count in self.kinds.items() if answer == kind)
        return num / len(self.seconds)


class Once:
    """An encoder that remembers."""

    def __init__(self, encoder: SentenceEncoder) -> None:
        self._encode = lru_cache(maxsize=100_000)(lambda text: encoder.encode([text])[0])

    def encode(self, sentences: Any) -> np.ndarray:
        """See `SentenceEncoder`."""
        return np.stack([self._encode(sentence) for sentence in sentences])


def request_of(prompt: LabelledPrompt) -> GenerateRequest:
    """As a client of the toy would ask."""
    fields = {"width": 64, "height": 64, "num_frames": 9, "num_inference_steps": STEPS}
    return resolve(load_rules("toy"), prompt.prompt, seed=prompt.seed, **fields)


def rates(name: str, num: int | None = None) -> dict[str, Any]:
    """The shares and seconds of a workload's stream, one request after another: with the toy's own list of
    equal words, as a gateway has it, and beside it without."""
    found = _rates(name, num, synonyms_by_pipeline(None))
    return found | {"without list": _rates(name, num, lambda pipeline: NO_SYNONYMS)}


def _rates(name: str, num: int | None, synonyms: Callable[[str], Synonyms]) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp(prefix="rushes-reuse-"))
    cache = LatentCache(ReuseStore(folder / "reuse.sqlite"))
    try:
        encoder, files = Once(SentenceEncoder()), BlobFolder(folder / "latents")
        latents = LatentReuse(cache, encoder, files, synonyms=synonyms)
        return _report(name, _run(name, num, latents, folder / "latents"))
    finally:
        cache.close()
        shutil.rmtree(folder)


def _run(name: str, num: int | None, latents: LatentReuse, folder: Path) -> Taken:
    """Requests that are labelled edits are asked for as edits of the clip that they change."""
    taken = Taken()
    made: dict[str, tuple[Snapshot, ...]] = {}  # by key, those on a clip's way
    keys: list[str] = []
    prompts = load_workload(name).prompts(num)
    for prompt in prompts:
        request = request_of(prompt)
        key = exact_key(request, identity=IDENTITY, tenant=TENANT)
        keys.append(key)
        kind, step = "exact", STEPS
        if key not in made:
            parent = made[keys[prompt.of]] if prompt.kind == "edit" and prompt.of is not None else ()
            kind, step = _edited(request, parent)
            source: tuple[Snapshot, ...] = ()
            if kind == "miss":
                found = latents.find(request, identity=IDENTITY, tenant=TENANT, has_seed=True)
                kind, step = ("miss", 0) if isinstance(found, str) else ("latent", found.source.step)
                if isinstance(found, str):
                    taken.misses.update([reason_of(found)])
                else:
                    source = made[keys[int(found.job_id)]]
                    taken.num_false += prompts[int(found.job_id)].scene != prompt.scene
            own = _keep(latents, folder, prompt, request, step)
            made[key] = (*own, *(one for one in source if one.step < step))
        taken.kinds[prompt.kind, kind] += 1
        taken.seconds.append(0.0 if kind == "exact" else FULL_S - step * STEP_S)
        taken.steps_saved[kind] += step
    return taken


def _edited(request: GenerateRequest, parent: tuple[Snapshot, ...]) -> tuple[str, int]:
    sigmas = schedule_of(request.sampling).sigmas
    snapshot = pick_snapshot(parent, lowest_kept(sigmas, STRENGTH, None))
    source = None if snapshot is None else source_at(snapshot, sigmas, is_renoised=False)
    return ("miss", 0) if source is None else ("edit", source.step)


def _keep(
    latents: LatentReuse, folder: Path, prompt: LabelledPrompt, request: GenerateRequest, step: int
) -> tuple[Snapshot, ...]:
    """A clip's snapshots, of those steps that were run."""
    schedule = schedule_of(request.sampling)
    snapshots = []
    for at in sorted(steps_at(schedule, LEVELS)):
        if at >= step:
            file = folder / f"{prompt.number}.{at}.latents.safetensors"
            file.touch()
            snapshots.append(Snapshot(name=file.name, sigma=schedule.sigmas[at], step=at, nbytes=0))
    job_id = str(prompt.number)
    latents.add(
        job_id, request, identity=IDENTITY, tenant=TENANT, snapshots=snapshots, saved_s=STEPS * STEP_S
    )
    return tuple(snapshots)


def _report(name: str, taken: Taken) -> dict[str, Any]:
    num = len(taken.seconds)
    exact, latent, edit = (taken.share(kind) for kind in ("exact", "latent", "edit"))
    by_label: dict[str, dict[str, int]] = {}
    for (label, kind), count in sorted(taken.kinds.items()):
        by_label.setdefault(label, {})[kind] = count
    mean_s = sum(taken.seconds) / num
    return {
        "workload": name,
        "requests": num,
        "exact": round(exact, 4),
        "latent": round(latent, 4),
        "edit": round(edit, 4),
        "hits": round(exact + latent + edit, 4),
        "latent hits on another scene": taken.num_false,
        "by label": by_label,
        "misses": dict(taken.misses.most_common(8)),
        "steps": STEPS,
        "mean steps saved": {
            kind: round(taken.steps_saved[kind] / (share * num), 2)
            for kind, share in (("latent", latent), ("edit", edit))
            if share
        },
        "fresh s": FULL_S,
        "mean s": round(mean_s, 3),
        "p50 s": round(float(np.median(taken.seconds)), 3),
        "mean less": round(1 - mean_s / FULL_S, 4),
        "device s saved": round(num * FULL_S - sum(taken.seconds), 1),
        "mean s if every reworded miss were a hit at no cost": round(
            (sum(taken.seconds) - sum(c * FULL_S for (l, k), c in taken.kinds.items() if (l, k) == REWORDED))
            / num,
            3,
        ),
        "hits for a mean of 1 s": round(1 - 1 / FULL_S, 4),
    }
