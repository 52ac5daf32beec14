"""Names for what a request would make, and for what its latents could be made from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

from rushes.models.prompts import clean_prompt
from rushes.stores.exact_keys import key_for
from rushes.stores.request_json import to_json
from rushes.types import GenerateRequest

_VERSION = 1
"""Rises when equal keys of two versions of Rushes would stand for different clips."""


def exact_key(request: GenerateRequest, *, identity: str, tenant: str) -> str:
    """Requests of one key make the same clip, bit for bit: 81 characters, see `stores.exact_keys`.

    Every field counts, so that one added later does; prompts count as the text encoder reads them. The
    negative prompt of a request without guidance is never read, and does not count.

    Args:
        identity: of the model that runs it, plan and LoRA files included (`rushes.pipelines.base.Parts`).
        tenant: whose clips may be given.
    """
    read = replace(request, prompt=clean_prompt(request.prompt), negative_prompt=_negative(request))
    return key_for(identity, _digest("exact", identity, tenant, to_json(read)))


def compatibility_key(request: GenerateRequest, *, identity: str, tenant: str, synonyms: str = "") -> str:
    """Latents of one key can be taken up by a request of the same key: 64 hex digits.

    Prompt, seed, number of steps and savings within a step do not count: at one noise level latents of the
    same model, size and guidance are drawn alike.

    Args:
        identity, tenant: as in `exact_key`.
        synonyms: fingerprint of the list by which prompts are brought to one form; "" for none. Forms of two
            lists are never compared.
    """
    video, sampling = request.video, request.sampling
    parts = {
        "pipeline": request.pipeline,
        "mode": request.mode,
        "size": [video.width, video.height, video.num_frames],
        "solver": sampling.solver,
        "shift": float(sampling.flow_shift),
        "guidance": [float(sampling.guidance_high), float(sampling.guidance_low)],
        "negative": _negative(request),
        "timesteps": None if sampling.timesteps is None else [float(one) for one in sampling.timesteps],
        "lora": sampling.lora,
    }
    if synonyms:  # keys of those who have no list stay what they were
        parts["synonyms"] = synonyms
    return _digest("latent", identity, tenant, json.dumps(parts, sort_keys=True))


def _negative(request: GenerateRequest) -> str:
    is_guided = request.sampling.guidance_high != 1 or request.sampling.guidance_low != 1
    return clean_prompt(request.negative_prompt) if is_guided else ""


def _digest(*parts: str) -> str:
    """Of a list, so that no two lists of parts give one text."""
    return hashlib.sha256(json.dumps([_VERSION, *parts]).encode()).hexdigest()
