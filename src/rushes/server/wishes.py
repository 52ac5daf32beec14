"""Whether a request may be answered with what earlier ones made: its field `cache`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from rushes.errors import InvalidRequest
from rushes.pipelines.fields import shown

Level = Literal["off", "exact", "on"]
LEVELS: tuple[Level, ...] = get_args(Level)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a request wants of earlier ones.

    Attributes:
        level: "off", nothing is taken and nothing kept for others; "exact", the clip of the same request;
            "on", stored latents of a like one too, where the service offers them.
        has_seed: the caller named a seed, which has to mean something.
    """

    level: Level = "on"
    has_seed: bool = False


ANYTHING = Wish()
"""Of a request that says nothing."""


def wish_of(body: Mapping[str, Any]) -> Wish:
    """Of a request's fields. Raises `InvalidRequest`."""
    level = body.get("cache")
    level = "on" if level is None else level
    if level not in LEVELS:
        raise InvalidRequest("cache", f"must be one of {', '.join(LEVELS)}, got {shown(level)}")
    return Wish(level=cast(Level, level), has_seed=body.get("seed") is not None)
