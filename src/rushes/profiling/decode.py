"""JSON data back into frozen dataclasses, every value checked against its annotation. No torch here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")


class DecodeError(ValueError):
    """A value does not fit; the message begins with its place."""


def decode(target: Callable[..., T], raw: object, place: str = "") -> T:
    """`raw`, as JSON gives it, as an instance of a dataclass.

    Args:
        place: of `raw` in what is read, for messages.

    Raises:
        DecodeError: a field is missing, unknown or of another type.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class Point:
        ...     x: float
        ...     tags: tuple[str, ...] = ()
        >>> decode(Point, {"x": 1, "tags": ["a"]})
        Point(x=1.0, tags=('a',))
    """
    if not isinstance(raw, Mapping):
        raise DecodeError(f"{place or 'the whole'} must be an object, not {_shown(raw)}")
    known = {field.name: field for field in fields(target)}  # type: ignore[arg-type]  # `target` is a dataclass
    for name in raw:
        if name not in known:
            raise DecodeError(f"{place}.{name} is unknown".lstrip("."))
    hints = _hints(target)
    given = {name: _value(hints[name], value, f"{place}.{name}".lstrip(".")) for name, value in raw.items()}
    for name, field in known.items():
        if name not in given and field.default is MISSING and field.default_factory is MISSING:
            raise DecodeError(f"{place}.{name} is missing".lstrip("."))
    return target(**given)


@cache
def _hints(target: Any) -> dict[str, Any]:
    return get_type_hints(target)


def _value(hint: Any, raw: object, place: str) -> Any:
    if hint is Any:
        return raw
    origin = get_origin(hint)
    if origin is UnionType:
        return _optional(hint, raw, place)
    if origin is tuple:
        return _items(get_args(hint)[0], raw, place)
    if origin is dict:
        return dict(_as(Mapping, raw, place, "an object"))
    if is_dataclass(hint):
        return decode(cast(Callable[..., Any], hint), raw, place)
    return _scalar(hint, raw, place)


def _optional(hint: Any, raw: object, place: str) -> Any:
    (inner,) = (member for member in get_args(hint) if member is not NoneType)
    return None if raw is None else _value(inner, raw, place)


def _items(hint: Any, raw: object, place: str) -> tuple[Any, ...]:
    items = _as(list, raw, place, "a list")
    return tuple(_value(hint, item, f"{place}[{index}]") for index, item in enumerate(items))


def _scalar(hint: Any, raw: object, place: str) -> Any:
    if hint is float and isinstance(raw, int) and not isinstance(raw, bool):
        return float(raw)
    if not isinstance(raw, hint) or (isinstance(raw, bool) and hint is not bool):
        raise DecodeError(f"{place} must be {_NAMES.get(hint, hint.__name__)}, not {_shown(raw)}")
    if isinstance(raw, float) and not math.isfinite(raw):
        raise DecodeError(f"{place} must be a finite number, not {raw}")
    return raw


_NAMES = {float: "a number", int: "a whole number", str: "text", bool: "true or false"}


def _as(kind: Any, raw: object, place: str, what: str) -> Any:
    if not isinstance(raw, kind):
        raise DecodeError(f"{place} must be {what}, not {_shown(raw)}")
    return raw


def _shown(raw: object) -> str:
    text = repr(raw)
    return text if len(text) <= 40 else f"{text[:37]}..."
