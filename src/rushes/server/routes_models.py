"""`/v1/models`: what may be asked for, with every field and its rule."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse

from rushes.pipelines.fields import Field
from rushes.pipelines.rules import load_rules
from rushes.server import openapi
from rushes.server.edit_ways import way_of
from rushes.server.gateway import Gateway
from rushes.server.service import caller_of, service_of

router = APIRouter(prefix="/v1/models", tags=["models"], responses=openapi.ERRORS)


@router.get("", operation_id="list_models")
async def list_models(request: Request) -> JSONResponse:
    """Models, the default one first, with the rules of their fields."""
    await caller_of(request, "videos:read")
    data = await asyncio.to_thread(_models, service_of(request).gateway)
    return JSONResponse({"object": "list", "data": data})


def _models(gateway: Gateway) -> list[dict[str, Any]]:
    """Reads what workers announce."""
    return [model_of(name, is_served=bool(gateway.serving(name))) for name in gateway.models]


def model_of(name: str, *, is_served: bool) -> dict[str, Any]:
    """OpenAI's model object, and what a form for it needs."""
    rules = load_rules(name)
    presets = {
        each: {"title": preset.title, "lora": preset.lora, "defaults": rules.defaults(each)}
        for each, preset in rules.presets.items()
    }
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "rushes",
        "title": rules.title,
        "is_served": is_served,
        "fields": {each.name: field_of(each) for each in rules.fields.values()},
        "sizes": [list(size) for size in rules.sizes],
        "presets": presets,
        "default_preset": rules.default_preset,
        "defaults": rules.defaults(),
        "video": asdict(rules.video),
        "supports_causal": rules.supports_causal,
        "negative_prompt": rules.negative_prompt,
        "edit": asdict(way_of(rules, None, None, has_lora=True)),
    }


def field_of(field: Field) -> dict[str, Any]:
    """A field's type, range and meaning."""
    data: dict[str, Any] = {"type": field.type.__name__, "help": field.help, "rule": field.rule}
    if field.type is str:
        return {**data, "choices": list(field.choices)}
    return {
        **data,
        "minimum": field.minimum,
        "maximum": field.maximum,
        "multiple": field.multiple,
        "offset": field.offset,
    }
