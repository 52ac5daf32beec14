"""What a caller asks for, as JSON or form fields, to a complete request and its options."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast, get_args

from rushes.engine.client import seed_for
from rushes.errors import InvalidRequest, UnknownName, did_you_mean
from rushes.pipelines.fields import shown
from rushes.pipelines.rules import PipelineRules, load_rules, resolve
from rushes.server.logs import conceal
from rushes.server.wishes import wish_of
from rushes.types import GenerateRequest, JobOptions, Lane

TEXTS = ("prompt", "negative_prompt", "preset", "mode")
"""Fields of `resolve` that are no numbers."""

OPENAI = ("model", "seconds", "size", "input_reference")
SPELLINGS = {"width": "size", "height": "size", "num_frames": "seconds"}
"""Which of `OPENAI` stands for a field of the library."""

OPTIONS = ("priority", "degrade", "deadline_s", "preview_every", "cache")
MAX_KEY_CHARACTERS = 255
OWN_KEYS = "batch_"
"""Idempotency keys that begin so are those of batches' rows."""

MAX_DEADLINE_S = 30 * 86_400.0
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")


def ask_of(
    body: Mapping[str, Any],
    *,
    models: Sequence[str],
    tenant: str,
    idempotency_key: str | None = None,
    traceparent: str | None = None,
    is_ours: bool = False,
) -> tuple[GenerateRequest, JobOptions]:
    """A request and how to treat it.

    Args:
        body: fields as JSON gives them.
        models: pipelines that may be asked for; the first is the default.
        is_ours: the idempotency key is the server's own, not a client's.

    Raises:
        InvalidRequest: with the field, its value and the rule.
    """
    conceal(body.get("prompt"), body.get("negative_prompt"))
    rules = load_rules(model_of(body, models))
    known = (*TEXTS, *OPENAI, *OPTIONS, *rules.fields)
    for name in body:
        if name not in known and name != "guidance_low":  # whose absence `resolve` explains
            raise UnknownName(str(name)[:80], str(name)[:80], known)
    if body.get("input_reference") is not None:
        raise InvalidRequest("input_reference", f"{rules.name} makes video from text only; leave it out")
    wish_of(body)  # to refuse what is none; who creates the job asks for it again
    key = idempotency_key if is_ours else key_of(idempotency_key)
    options = options_of(body, tenant=tenant, idempotency_key=key, traceparent=traceparent)
    fields = {name: body[name] for name in body if name not in (*TEXTS, *OPENAI, *OPTIONS)}
    fields |= {name: value for name, value in size_of(body).items() if fields.get(name) is None}
    fields |= frames_of(body, rules, fields)
    if idempotency_key is not None and fields.get("seed") is None:
        fields["seed"] = seed_for(tenant, idempotency_key)
    texts: dict[str, Any] = {name: body.get(name) for name in TEXTS if name != "prompt"}
    if "prompt" not in body:
        raise InvalidRequest("prompt", "is required: the text that describes the video")
    try:
        return resolve(rules, body["prompt"], **texts, **fields), options
    except InvalidRequest as error:
        raise as_spelt(error, body) from error


def as_spelt(error: InvalidRequest, body: Mapping[str, Any]) -> InvalidRequest:
    """The error of a field that was given by OpenAI's name for it, under that name."""
    name = SPELLINGS.get(error.field)
    if name is None or body.get(error.field) is not None or body.get(name) is None:
        return error
    return InvalidRequest(name, f"{body[name]}: {error.field} {error.reason}")


def model_of(body: Mapping[str, Any], models: Sequence[str]) -> str:
    """The pipeline that is asked for. Raises `InvalidRequest`."""
    name = body.get("model")
    if name is None:
        return models[0]
    if not isinstance(name, str):
        raise InvalidRequest("model", f"must be one of {', '.join(models)}, got {shown(name)}")
    if name not in models:
        hint, choices = did_you_mean(name, models), ", ".join(models)
        raise InvalidRequest("model", f"{shown(name)} is not served here{hint}; choose from {choices}")
    return name


def size_of(body: Mapping[str, Any]) -> dict[str, int]:
    """OpenAI's `size` as width and height. Raises `InvalidRequest`, also where both spellings disagree."""
    size = body.get("size")
    if size is None:
        return {}
    found = _SIZE.fullmatch(size) if isinstance(size, str) else None
    if found is None:
        raise InvalidRequest("size", f"must be WIDTHxHEIGHT, such as 832x480, got {shown(size)}")
    sides = {"width": int(found[1]), "height": int(found[2])}
    for name, side in sides.items():
        if body.get(name) not in (None, side):
            raise InvalidRequest("size", f"{size} and {name} {body[name]!r} disagree; give one of them")
    return sides


def frames_of(body: Mapping[str, Any], rules: PipelineRules, fields: Mapping[str, Any]) -> dict[str, int]:
    """OpenAI's `seconds` as the nearest number of frames. Raises `InvalidRequest`."""
    seconds = body.get("seconds")
    if seconds is None:
        return {}
    if fields.get("num_frames") is not None:
        raise InvalidRequest("seconds", "seconds and num_frames say the same; give one of them")
    length_s = number_of("seconds", seconds, 0.0, 3600.0)
    fps = rules.fields["fps"].check(fields["fps"]) if fields.get("fps") is not None else rules.video.fps
    frames = rules.fields["num_frames"]
    return {"num_frames": max(1, frames.multiple * round(length_s * float(fps) / frames.multiple) + 1)}


def options_of(
    body: Mapping[str, Any], *, tenant: str, idempotency_key: str | None, traceparent: str | None
) -> JobOptions:
    """How the job is treated, by a key that `key_of` has seen. Raises `InvalidRequest`."""
    lanes: tuple[str, ...] = get_args(Lane)
    lane = body.get("priority")
    lane = "interactive" if lane is None else lane
    if lane not in lanes:
        raise InvalidRequest("priority", f"must be one of {', '.join(lanes)}, got {shown(lane)}")
    degrade = body.get("degrade")
    if degrade is not None and not isinstance(degrade, bool):
        raise InvalidRequest("degrade", f"must be true or false, got {shown(degrade)}")
    deadline = body.get("deadline_s")
    every = body.get("preview_every")
    return JobOptions(
        lane=cast(Lane, lane),
        tenant=tenant,
        deadline_s=None if deadline is None else number_of("deadline_s", deadline, 0.001, MAX_DEADLINE_S),
        degrade=bool(degrade),
        idempotency_key=idempotency_key,
        preview_every=0 if every is None else _whole("preview_every", every, 0, 1000),
        traceparent=traceparent,
    )


def read_form(fields: Mapping[str, object], rules_fields: Mapping[str, Any]) -> dict[str, Any]:
    """Form fields, which are text, as JSON would give them; what is no number is left to its rule."""
    return {name: _of_form(name, value, rules_fields) for name, value in fields.items()}


def _of_form(name: str, value: object, rules_fields: Mapping[str, Any]) -> object:
    if not isinstance(value, str):
        return value
    if name == "degrade":
        return {"true": True, "false": False}.get(value.lower(), value)
    is_number = name in ("deadline_s", "preview_every", "strength") or (
        name in rules_fields and rules_fields[name].type is not str
    )
    if not is_number:
        return value
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def key_of(key: str | None) -> str | None:
    """A client's idempotency key. Raises `InvalidRequest`."""
    if key is not None and not (0 < len(key) <= MAX_KEY_CHARACTERS and key.isprintable() and key.isascii()):
        rule = f"must be 1 to {MAX_KEY_CHARACTERS} printable ASCII characters"
        raise InvalidRequest("Idempotency-Key", f"{rule}, got {shown(key)}")
    if key is not None and key.startswith(OWN_KEYS):
        raise InvalidRequest("Idempotency-Key", f"must not begin with {OWN_KEYS!r}, got {shown(key)}")
    return key


def number_of(field: str, value: object, low: float, high: float) -> float:
    """A number within bounds. Raises `InvalidRequest`."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]  # caught below
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not low <= number <= high:
        raise InvalidRequest(field, f"must be a number from {low:g} to {high:g}, got {shown(value)}")
    return number


def _whole(field: str, value: object, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidRequest(field, f"must be a whole number from {low} to {high}, got {shown(value)}")
    return value
