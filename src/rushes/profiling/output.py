"""Reports as plain data and as files. No torch here."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rushes.errors import OutputError

NONE_DERIVED: Mapping[type, tuple[str, ...]] = MappingProxyType({})


def plain(value: Any, derived: Mapping[type, tuple[str, ...]] = NONE_DERIVED) -> Any:
    """Dataclasses, mappings and sequences as what JSON has; what is infinite or no number becomes None.

    Args:
        derived: properties that are written beside the fields, by class.

    Example:
        >>> plain({1: (2.0, float("inf"))})
        {'1': [2.0, None]}
    """
    if is_dataclass(value) and not isinstance(value, type):
        names = [*value.__dataclass_fields__, *derived.get(type(value), ())]
        return {name: plain(getattr(value, name), derived) for name in names}
    if isinstance(value, Mapping):
        return {str(name): plain(each, derived) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each, derived) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def write_json(path: Path, data: Any, *, indent: int | None = None) -> None:
    """Write what `plain` made. Raises `OutputError`."""
    write_text(path, json.dumps(data, indent=indent, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file. Raises `OutputError`."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror or error}") from error
