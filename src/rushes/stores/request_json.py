"""Requests and options as canonical JSON and back, exactly. Equal values give equal text.

Every field is written and every field must be there: a store that is read by a newer Rushes with one more
field needs a migration (see `sqlite_schema`), not a guess.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import is_dataclass
from functools import cache, lru_cache, partial
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from rushes.errors import StoreError, did_you_mean
from rushes.types import GenerateRequest, JobOptions

Stored = TypeVar("Stored", GenerateRequest, JobOptions)
_Convert = Callable[[object], Any]


def to_json(value: GenerateRequest | JobOptions) -> str:
    """Canonical JSON in ASCII: keys sorted, a float field written as a float.

    Raises:
        StoreError: a value is not of its field's type, or no finite number.

    Example:
        >>> to_json(JobOptions(preview_every=2))[:33]
        '{"deadline_s":null,"degrade":fals'
    """
    mapping = _named(type(value), _writer, value)
    return json.dumps(mapping, sort_keys=True, separators=(",", ":"))


@lru_cache(maxsize=512)
def from_json(kind: type[Stored], text: str) -> Stored:
    """The value that `to_json` was given. One that was read lately is not read again: a job is looked at a
    dozen times between its creation and its end.

    Raises:
        StoreError: no JSON, a field is unknown or missing, or its value is of another type; names the field.

    Example:
        >>> from_json(JobOptions, to_json(JobOptions(tenant="a"))).tenant
        'a'
    """
    try:
        mapping = json.loads(text)
    except ValueError as error:
        raise StoreError(f"{kind.__name__}: not JSON: {error}") from error
    value: Stored = _named(kind, _reader, mapping)
    return value


class _Wrong(Exception):
    """What is wrong with a value; the path to it grows while the error rises."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        self.path = ""


def _named(kind: type, of_record: Callable[[type], _Convert], value: object) -> Any:
    try:
        return of_record(kind)(value)
    except _Wrong as wrong:
        raise StoreError(f"{kind.__name__}{wrong.path}: {wrong.reason}") from None


@cache
def _writer(kind: type) -> _Convert:
    """From a record to a mapping."""
    converts = _fields(kind, _writer)

    def write(value: object) -> dict[str, object]:
        if type(value) is not kind:
            raise _mismatch(f"a {kind.__name__}", value)
        return _each(converts, {name: getattr(value, name) for name in converts})

    return write


@cache
def _reader(kind: type) -> _Convert:
    """From a mapping to a record."""
    converts = _fields(kind, _reader)

    def read(value: object) -> Any:
        if not isinstance(value, dict):
            raise _mismatch("an object", value)
        for name in value.keys() - converts.keys():
            raise _Wrong(f"unknown field {name!r}{did_you_mean(name, converts)}")
        for name in converts.keys() - value.keys():
            raise _Wrong(f"missing field {name!r}")
        return kind(**_each(converts, value))

    return read


def _each(converts: Mapping[str, _Convert], values: Mapping[str, object]) -> dict[str, object]:
    converted = {}
    for name, convert in converts.items():
        try:
            converted[name] = convert(values[name])
        except _Wrong as wrong:
            wrong.path = f".{name}{wrong.path}"
            raise
    return converted


def _fields(kind: type, of_record: Callable[[type], _Convert]) -> Mapping[str, _Convert]:
    return {name: _converter(hint, of_record) for name, hint in get_type_hints(kind).items()}


def _converter(hint: Any, of_record: Callable[[type], _Convert]) -> _Convert:
    """What checks and converts a value as `hint` says; the directions differ in records only."""
    if is_dataclass(hint):
        return of_record(hint)  # type: ignore[arg-type]
    if get_origin(hint) in (Union, UnionType):
        (inner,) = (choice for choice in get_args(hint) if choice is not NoneType)
        return partial(_optional, _converter(inner, of_record))
    if get_origin(hint) is tuple:
        return partial(_tuple, _converter(get_args(hint)[0], of_record))
    if get_origin(hint) is Literal:
        return partial(_choice, get_args(hint))
    return _float if hint is float else partial(_exact, hint)


def _optional(convert: _Convert, value: object) -> object:
    return None if value is None else convert(value)


def _tuple(convert: _Convert, value: object) -> tuple[object, ...]:
    if not isinstance(value, (list, tuple)):
        raise _mismatch("a list", value)
    items = {str(index): item for index, item in enumerate(value)}
    return tuple(_each(dict.fromkeys(items, convert), items).values())


def _choice(choices: tuple[str, ...], value: object) -> object:
    if value not in choices:
        raise _mismatch(f"one of {', '.join(choices)}", value)
    return value


def _float(value: object) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        # A whole number may be too large for a float.
        with suppress(OverflowError):
            if math.isfinite(value):
                return float(value)
    raise _mismatch("a finite number", value)


def _exact(kind: type, value: object) -> object:
    if type(value) is not kind:
        raise _mismatch(f"of type {kind.__name__}", value)
    return value


def _mismatch(rule: str, value: object) -> _Wrong:
    is_long = isinstance(value, int) and value.bit_length() > 256
    text = "of more than 256 bits" if is_long else repr(str(value)[:60])
    return _Wrong(f"must be {rule}, got {type(value).__name__} {text}")
