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
from rushes.reuse.store import ReuseStore
from rushes.reuse.synonyms import NO_SYNONYMS, Synonyms
from rushes.sampling.levels import LEVELS, schedule_of, steps_at
from rushes.server.edit_ways import cost_of, sampling_of, source_of, way_of
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
    equal words, as a gateway has it, and the seeds that it names; beside it without the list, and without
    the seeds where latents are taken up."""
    found = _rates(name, num, synonyms_by_pipeline(None))
    return found | {
        "without list": _rates(name, num, lambda pipeline: NO_SYNONYMS),
        "no seed named": _rates(name, num, synonyms_by_pipeline(None), has_seed=False),
    }


def _rates(
    name: str, num: int | None, synonyms: Callable[[str], Synonyms], *, has_seed: bool = True
) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp(prefix="rushes-reuse-"))
    cache = LatentCache(ReuseStore(folder / "reuse.sqlite"))
    try:
        encoder, files = Once(SentenceEncoder()), BlobFolder(folder / "latents")
        latents = LatentReuse(cache, encoder, files, synonyms=synonyms)
        return _report(name, _run(name, num, latents, folder / "latents", has_seed=has_seed))
    finally:
        cache.close()
        shutil.rmtree(folder)


def _run(name: str, num: int | None, latents: LatentReuse, folder: Path, *, has_seed: bool) -> Taken:
    """Requests that are labelled edits are asked for as edits of the clip that they change, whose finished
    latents are kept."""
    taken = Taken()
    made: set[str] = set()
    prompts = load_workload(name).prompts(num)
    for prompt in prompts:
        request = request_of(prompt)
        key = exact_key(request, identity=IDENTITY, tenant=TENANT)
        kind, step = "exact", STEPS
        if key not in made:
            made.add(key)
            is_edit = prompt.kind == "edit" and prompt.of is not None
            kind, step = ("edit", _saved_by_edit(request)) if is_edit else ("miss", 0)
        if kind == "miss":
            found = latents.find(request, identity=IDENTITY, tenant=TENANT, has_seed=has_seed)
            if isinstance(found, str):
                taken.misses.update([reason_of(found)])
            else:
                kind, step = "latent", found.source.step
                taken.num_false += prompts[int(found.job_id)].scene != prompt.scene
        if kind in ("miss", "latent"):  # an edit has its parent's layout: others do not go on from it
            _keep(latents, folder, prompt, request, step)
        taken.kinds[prompt.kind, kind] += 1
        taken.seconds.append(0.0 if kind == "exact" else FULL_S - step * STEP_S)
        taken.steps_saved[kind] += step
    return taken


def _saved_by_edit(request: GenerateRequest) -> int:
    """Steps of the clip's own settings whose forwards an edit as a gateway makes it leaves out."""
    rules = load_rules(request.pipeline)
    way = way_of(rules, None, None, has_lora=True)
    sampling = sampling_of(rules, way, request)
    source = source_of(rules, way, sampling, "finished", mask=None)
    assert source is not None, "an edit takes up latents"
    forwards = cost_of(sampling, sampling.num_inference_steps - source.step)
    return STEPS - forwards * STEPS // cost_of(request.sampling, STEPS)


def _keep(
    latents: LatentReuse, folder: Path, prompt: LabelledPrompt, request: GenerateRequest, step: int
) -> None:
    """Take in a clip's snapshots, of those steps that were run."""
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
