"""Edits: an earlier clip taken up at a noise level with another prompt, and the chain of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rushes.errors import InvalidRequest, UnknownJob, UnknownName
from rushes.models.prompts import clean_prompt
from rushes.pipelines.fields import FIELDS as REQUEST_FIELDS
from rushes.pipelines.fields import shown
from rushes.pipelines.rules import MAX_PROMPT_CHARACTERS, load_rules
from rushes.reuse.entries import Snapshot
from rushes.reuse.levels import known_schedule, lowest_kept, source_at
from rushes.reuse.staircase import pick_snapshot
from rushes.sampling.levels import schedule_of
from rushes.server.asks import key_of, number_of, options_of
from rushes.server.edit_ways import OWN, Way, cost_of, sampling_of, source_of, way_of
from rushes.server.logs import conceal
from rushes.server.masks import Mask, mask_of
from rushes.server.reuse import reuse_of
from rushes.server.videos import STATUS
from rushes.stores.base import JobRecord, JobStore
from rushes.types import GenerateRequest, JobOptions, Json, LatentSource

FIELDS = (
    "prompt",
    "preset",
    "strength",
    "mask",
    "mask_frames",
    "seed",
    "negative_prompt",
    "priority",
    "deadline_s",
    "preview_every",
    "degrade",
)
MAX_CHAIN = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class EditAsk:
    """An edit as it was asked for.

    Attributes:
        preset: by whose settings it is made, or `OWN`; None for what the model does.
        strength: noise level in 0..1 at which the clip is taken up; 1 makes a new clip. By the clip's own
            settings at its first step at or below it of which there are latents, else at the next above. None
            for the way's own.
        seed: with which the latents are noised again; None for the clip's, or, by its own settings, goes on
            from them as they stood.
        negative_prompt: None for that of the clip.
        mask: where it may change, None for everywhere.
    """

    prompt: str
    preset: str | None
    strength: float | None
    mask: Mask | None
    seed: int | None
    negative_prompt: str | None
    options: JobOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """How it will be made; `told` as in `rushes.server.reuse.Plan`."""

    request: GenerateRequest
    told: Mapping[str, Json]


def edit_of(
    body: Mapping[str, Any],
    *,
    tenant: str,
    idempotency_key: str | None = None,
    traceparent: str | None = None,
) -> EditAsk:
    """An edit of JSON's fields, the mask also as bytes. Raises `InvalidRequest`; decodes the mask."""
    conceal(body.get("prompt"), body.get("negative_prompt"))
    for name in body:
        if name not in FIELDS:
            raise UnknownName(str(name)[:80], str(name)[:80], FIELDS)
    if "prompt" not in body:
        raise InvalidRequest("prompt", "is required: the text that describes the new video")
    strength, seed = body.get("strength"), body.get("seed")
    if seed is not None:
        seed = int(REQUEST_FIELDS["seed"].check(seed))
    negative = body.get("negative_prompt")
    return EditAsk(
        prompt=_text("prompt", body["prompt"]),
        preset=_preset(body.get("preset")),
        strength=None if strength is None else number_of("strength", strength, 0.0, 1.0),
        mask=mask_of(body.get("mask"), body.get("mask_frames")),
        seed=seed,
        negative_prompt=None if negative is None else _text("negative_prompt", negative, may_be_empty=True),
        options=options_of(
            body, tenant=tenant, idempotency_key=key_of(idempotency_key), traceparent=traceparent
        ),
    )


def edit(
    parent: JobRecord,
    ask: EditAsk,
    snapshots: Sequence[Snapshot],
    *,
    whole_s: float = 0.0,
    mask: str | None = None,
    kept_s: float = 0.0,
    finished: str | None = None,
    has_lora: bool = False,
) -> Edit:
    """The clip's request with the new prompt, from its latents where there are fitting ones.

    Without, it is a new clip of the settings that the edit would have had, and says so (`miss`): whether
    latents are there changes nothing of what is asked for.

    Args:
        snapshots: that are there, of the clip that is edited.
        whole_s: device seconds that all steps take.
        kept_s: device seconds that decode what stays before the mask's first frame.
        mask: name of the mask's file. Under a mask the clip goes on from the source's at every strength.
        finished: name of the clip's finished latents, where they are there.
        has_lora: the model's few-step weights are there, as far as is known.

    Raises:
        UnknownName: the model has no such preset.
    """
    rules = load_rules(parent.request.pipeline)
    way = way_of(rules, ask.preset, ask.strength, has_lora=has_lora)
    request = _changed(parent.request, ask)
    if way.preset is None:
        source, reason = _from_snapshots(request, way, snapshots, rules.boundary, ask.seed is not None, mask)
    else:
        request = replace(request, sampling=sampling_of(rules, way, request))
        source, reason = None, "missing"
        if finished is not None:
            source, reason = source_of(rules, way, request.sampling, finished, mask=mask), "strength"
    told: dict[str, Json] = {
        "kind": "miss",
        "remixed_from": parent.id,
        "strength": way.strength,
        **({} if way.preset is None else {"preset": way.preset}),
        **({} if mask is None else {"mask": mask}),
    }
    if source is None:
        return Edit(request=request, told={**told, "reason": reason})
    whole, left = parent.request.sampling, len(schedule_of(request.sampling)) - source.step
    share = 1 - cost_of(request.sampling, left) / cost_of(whole, whole.num_inference_steps)
    told |= {
        "kind": "edit",
        "source": parent.id,
        "sigma": schedule_of(request.sampling).sigmas[source.step],
        "steps_saved": max(0, whole.num_inference_steps - left),
        "seconds_saved": round(max(0.0, whole_s * share) + kept_s, 3),
    }
    return Edit(request=replace(request, source=source), told=told)


def parent_of(record: JobRecord) -> str | None:
    """The video that this one is an edit of."""
    found = reuse_of(record).get("remixed_from")
    return None if found is None else str(found)


def history_of(jobs: JobStore, record: JobRecord) -> Sequence[dict[str, Json]]:
    """A video and those that it came from, itself first. One that was deleted ends it."""
    links: list[dict[str, Json]] = []
    next_id: str | None = record.id
    while next_id is not None and len(links) < MAX_CHAIN:
        try:
            each = record if next_id == record.id else jobs.get(next_id)
        except UnknownJob:
            each = None
        if each is None or each.options.tenant != record.options.tenant:
            links.append({"id": next_id, "is_deleted": True})
            break
        told = reuse_of(each)
        links.append(
            {
                "id": each.id,
                "is_deleted": False,
                "status": STATUS[each.status],
                "prompt": each.request.prompt,
                "seed": each.request.sampling.seed,
                "created_at": int(each.created_at),
                "strength": told.get("strength"),
                "sigma": told.get("sigma"),
                "source": None if each.request.source is None else each.request.source.name,
                "remixed_from_video_id": parent_of(each),
            }
        )
        next_id = parent_of(each)
    return links


def _from_snapshots(
    request: GenerateRequest,
    way: Way,
    snapshots: Sequence[Snapshot],
    boundary: float | None,
    is_renoised: bool,
    mask: str | None,
) -> tuple[LatentSource | None, str]:
    """Where a clip of its own settings goes on, or why nowhere."""
    schedule = known_schedule(request.sampling)
    if schedule is None or not snapshots:
        return None, "missing"
    snapshot = pick_snapshot(snapshots, lowest_kept(schedule.sigmas, way.strength, boundary))
    source = None
    if snapshot is not None:
        source = source_at(snapshot, schedule.sigmas, is_renoised=is_renoised, mask=mask)
    if source is None and mask is not None:
        source = _from_noise(snapshots[0], mask)
    return source, "strength"


def _from_noise(snapshot: Snapshot, mask: str) -> LatentSource:
    """A clip that is made anew within a mask, and stays outside of it."""
    return LatentSource(name=snapshot.name, sigma=snapshot.sigma, step=0, is_renoised=True, mask=mask)


def _changed(request: GenerateRequest, ask: EditAsk) -> GenerateRequest:
    sampling = request.sampling
    if ask.seed is not None:
        sampling = replace(sampling, seed=ask.seed)
    negative = request.negative_prompt if ask.negative_prompt is None else ask.negative_prompt
    return replace(request, prompt=ask.prompt, negative_prompt=negative, sampling=sampling, source=None)


def _preset(value: object) -> str | None:
    """Whether the model has it is for `edit` to see."""
    if value is not None and not isinstance(value, str):
        raise InvalidRequest("preset", f"must be the name of a preset, or {OWN!r}, got {shown(value)}")
    return value


def _text(field: str, value: object, *, may_be_empty: bool = False) -> str:
    """As `rushes.pipelines.rules.resolve` has it."""
    if not isinstance(value, str) or "\0" in value:
        raise InvalidRequest(field, f"must be text, got {shown(value)}")
    if len(value) > MAX_PROMPT_CHARACTERS:
        raise InvalidRequest(field, f"must have at most {MAX_PROMPT_CHARACTERS} characters, got {len(value)}")
    if not may_be_empty and not clean_prompt(value):
        raise InvalidRequest(field, f"must not be empty{', and this is white space' if value else ''}")
    return value
