"""The schemas that the OpenAPI page shows, from the rules' own fields."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, get_args

from rushes.pipelines.fields import Field
from rushes.pipelines.rules import FIELDS, MAX_PROMPT_CHARACTERS, MODES
from rushes.server.batch_asks import MAX_ROWS
from rushes.server.edit_ways import OWN, STRENGTH
from rushes.server.reuse_metrics import KINDS
from rushes.server.wishes import LEVELS
from rushes.types import Lane

_ERROR: Mapping[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["type", "code", "message"],
            "properties": {
                "type": {"type": "string"},
                "code": {"type": "string"},
                "message": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "field": {"type": "string"},
                "value": {},
                "rule": {"type": ["string", "null"]},
                "request_id": {"type": "string"},
            },
        }
    },
}


def _json(description: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _bytes(description: str, media_type: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {media_type: {"schema": {"type": "string", "format": "binary"}}},
    }


ERRORS: dict[int | str, dict[str, Any]] = {
    status: _json(text, _ERROR)
    for status, text in {
        400: "a field or the body breaks a rule",
        401: "no key, or one that is not known",
        403: "the key may not do this",
        404: "nothing of that name that this key may see",
        429: "a limit or a full queue; `Retry-After` says when",
        503: "the store is away or the server stops; `Retry-After` says when",
    }.items()
}


def schema_of(field: Field) -> dict[str, Any]:
    """JSON schema of one field of a request, as wide as the widest model's."""
    if field.type is str:
        return {"type": "string", "description": field.help}
    schema: dict[str, Any] = {"type": "integer" if field.type is int else "number", "description": field.help}
    for name, bound in (("minimum", field.minimum), ("maximum", field.maximum)):
        if math.isfinite(bound):
            schema[name] = bound
    return schema


ASK: Mapping[str, Any] = {
    "type": "object",
    "required": ["prompt"],
    "additionalProperties": False,
    "properties": {
        "prompt": {"type": "string", "minLength": 1, "maxLength": MAX_PROMPT_CHARACTERS},
        "negative_prompt": {"type": "string", "maxLength": MAX_PROMPT_CHARACTERS},
        "model": {"type": "string"},
        "preset": {"type": "string"},
        "mode": {"type": "string", "enum": list(MODES)},
        "seconds": {
            "anyOf": [{"type": "number"}, {"type": "string"}],
            "description": "instead of num_frames",
        },
        "size": {"type": "string", "description": "WIDTHxHEIGHT, instead of width and height"},
        "priority": {"type": "string", "enum": list(get_args(Lane))},
        "degrade": {"type": "boolean", "description": "may be made smaller rather than refused"},
        "deadline_s": {"type": "number", "exclusiveMinimum": 0},
        "preview_every": {"type": "integer", "minimum": 0, "maximum": 1000},
        "cache": {
            "type": "string",
            "enum": list(LEVELS),
            "description": "what may be taken from earlier ones",
        },
        **{name: schema_of(field) for name, field in FIELDS.items()},
    },
}

_VIDEO: Mapping[str, Any] = {
    "type": "object",
    "required": ["id", "object", "model", "status", "progress", "created_at", "seconds", "size"],
    "properties": {
        "id": {"type": "string"},
        "object": {"type": "string", "enum": ["video"]},
        "model": {"type": "string"},
        "status": {"type": "string", "enum": ["queued", "in_progress", "completed", "failed"]},
        "progress": {"type": "integer", "minimum": 0, "maximum": 100},
        "created_at": {"type": "integer"},
        "completed_at": {"type": ["integer", "null"]},
        "expires_at": {"type": ["integer", "null"]},
        "error": {"type": ["object", "null"]},
        "notes": {"type": "array", "items": {"type": "string"}},
        "prompt": {"type": "string"},
        "seconds": {"type": "string"},
        "size": {"type": "string"},
        "eta_s": {"type": ["number", "null"]},
        "position": {"type": ["integer", "null"]},
        "remixed_from_video_id": {"type": ["string", "null"]},
        "cache": {
            "type": "object",
            "required": ["kind"],
            "properties": {"kind": {"type": "string", "enum": list(KINDS)}},
        },
    },
}

CREATE: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": ASK},
            "multipart/form-data": {"schema": ASK},
        },
    }
}

_MASK = "a PNG of the clip's aspect: white changes, black stays"
_REMIX: Mapping[str, Any] = {
    "type": "object",
    "required": ["prompt"],
    "additionalProperties": False,
    "properties": {
        "preset": {
            "type": "string",
            "description": f"whose settings; {OWN!r}: the clip's. By default of few-step weights that come"
            " with the model, else the clip's",
        },
        "strength": {
            "type": "number",
            "minimum": 0,
            "maximum": 1,
            "description": "noise level at which the clip is taken up; 1 makes a new clip. By default"
            f" {STRENGTH} with the clip's own settings, else the model's",
        },
        "mask": {"type": "string", "contentEncoding": "base64", "description": f"{_MASK}; in base64"},
        "mask_frames": {
            "type": "string",
            "pattern": "^[0-9]{1,6}-([0-9]{1,6})?$",
            "description": "FIRST-LAST, the frames that may change",
        },
        **{
            name: schema
            for name, schema in ASK["properties"].items()
            if name
            in ("prompt", "negative_prompt", "seed", "priority", "deadline_s", "preview_every", "degrade")
        },
    },
}
_REMIX_FORM: Mapping[str, Any] = {
    **_REMIX,
    "properties": {
        **_REMIX["properties"],
        "mask": {"type": "string", "format": "binary", "description": f"{_MASK}; as a file"},
    },
}
REMIX: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": _REMIX},
            "multipart/form-data": {"schema": _REMIX_FORM},
        },
    }
}

_REFUSED: Mapping[int | str, dict[str, Any]] = {
    status: _json(text, _ERROR)
    for status, text in {
        408: "the body came too slowly",
        409: "the idempotency key belongs to another request, or the job is not ready for this",
        410: "the job ended without a video",
        413: "the body is too large",
        415: "the body is of another type",
    }.items()
}

VIDEO: dict[int | str, dict[str, Any]] = {200: _json("the video", _VIDEO), **_REFUSED}
VIDEO_LIST: dict[int | str, dict[str, Any]] = {
    200: _json(
        "a page",
        {
            "type": "object",
            "required": ["object", "data", "has_more"],
            "properties": {
                "object": {"type": "string", "enum": ["list"]},
                "data": {"type": "array", "items": _VIDEO},
                "first_id": {"type": ["string", "null"]},
                "last_id": {"type": ["string", "null"]},
                "has_more": {"type": "boolean"},
            },
        },
    )
}
HISTORY: dict[int | str, dict[str, Any]] = {
    200: _json(
        "the video and those that it is an edit of, itself first",
        {
            "type": "object",
            "required": ["object", "data"],
            "properties": {
                "object": {"type": "string"},
                "data": {"type": "array", "items": {"type": "object"}},
            },
        },
    )
}
DELETED: dict[int | str, dict[str, Any]] = {
    200: _json(
        "it is gone",
        {
            "type": "object",
            "required": ["id", "object", "deleted"],
            "properties": {
                "id": {"type": "string"},
                "object": {"type": "string"},
                "deleted": {"type": "boolean"},
            },
        },
    ),
    409: _REFUSED[409],
}
_BATCH: Mapping[str, Any] = {
    "type": "object",
    "required": ["object", "total"],
    "properties": {
        "id": {"type": "string"},
        "object": {"type": "string", "enum": ["batch", "batch.estimate"]},
        "status": {"type": "string", "enum": ["in_progress", "completed", "cancelling", "cancelled"]},
        "total": {"type": "integer"},
        "counts": {"type": "object", "additionalProperties": {"type": "integer"}},
        "predicted_s": {"type": ["number", "null"]},
        "actual_s": {"type": "number"},
        "eta_s": {"type": ["number", "null"]},
        "notes": {"type": "array", "items": {"type": "string"}},
        "rows": {"type": "array", "items": {"type": "object"}},
        "has_more": {"type": "boolean"},
    },
}
_BATCH_ASK: Mapping[str, Any] = {
    "type": "object",
    "required": ["template", "rows"],
    "additionalProperties": False,
    "properties": {
        "template": {"type": "string", "minLength": 1, "description": "a prompt with {name} for a column"},
        "rows": {"type": "array", "minItems": 1, "maxItems": MAX_ROWS, "items": {"type": "object"}},
        "estimate": {"type": "boolean", "description": "only tell what it would take"},
        **{name: schema for name, schema in ASK["properties"].items() if name != "prompt"},
    },
}
CREATE_BATCH: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": _BATCH_ASK}}}
}
BATCH: dict[int | str, dict[str, Any]] = {200: _json("the batch", _BATCH), **_REFUSED}
BATCH_LIST: dict[int | str, dict[str, Any]] = {
    200: _json("a page", {"type": "object", "properties": {"data": {"type": "array", "items": _BATCH}}})
}
_NONE_YET: Mapping[int | str, dict[str, Any]] = {409: _REFUSED[409], 410: _REFUSED[410]}
CONTENT: dict[int | str, dict[str, Any]] = {
    200: _bytes("the file", "video/mp4"),
    206: _bytes("a range of the file", "video/mp4"),
    302: {"description": "where it lies"},
    304: {"description": "the client has it"},
    416: {"description": "no such range"},
    **_NONE_YET,
}
_EVENT: Mapping[str, Any] = {
    "type": "object",
    "required": ["data", "event"],
    "properties": {
        "id": {"type": "string", "description": "number of the event within its job"},
        "event": {"type": "string"},
        "data": {"type": "string", "description": "JSON; docs/service.md has its fields"},
    },
}
EVENTS: dict[int | str, dict[str, Any]] = {
    200: {"description": "server-sent events", "content": {"text/event-stream": {"schema": _EVENT}}}
}
STREAM: dict[int | str, dict[str, Any]] = {
    200: _bytes("a fragmented mp4", "video/mp4"),
    302: {"description": "where the finished one lies"},
    **_NONE_YET,
}
TRACE: dict[int | str, dict[str, Any]] = {
    200: _json("phases and spans, in seconds since the job was queued", {"type": "object"})
}
PREVIEW: dict[int | str, dict[str, Any]] = {200: _bytes("a small animation", "image/webp")}
