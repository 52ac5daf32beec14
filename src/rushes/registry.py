"""Plug-in points: names and where their code lives, listed and checked without importing any of it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from rushes.errors import ConfigError, UnknownName


class Registry:
    """Names of one kind of part, each with the import string `"module:attribute"` that makes it.

    Built-in names are given; others come from installed packages that declare an entry point in `group`.
    Listing reads package metadata only; `load` is the first and only moment when a module is imported.

    Args:
        kind: what the names are ("solver"); it is the field named in errors.
        builtins: name -> import string.
        group: entry-point group of third-party parts, None for a closed registry.

    Example:
        >>> from rushes.registry import Registry
        >>> codecs = Registry("codec", {"json": "json:dumps"})
        >>> codecs.names(), codecs.load("json")([1])
        (('json',), '[1]')
    """

    def __init__(self, kind: str, builtins: Mapping[str, str], group: str | None = None) -> None:
        self.kind = kind
        self.group = group
        self._builtins = dict(builtins)

    def names(self) -> tuple[str, ...]:
        """Every name, built-ins first. Raises `ConfigError` when a plug-in takes a built-in's name."""
        return tuple(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def check(self, name: str) -> str:
        """`name` itself, or `UnknownName` with the nearest one. Imports nothing."""
        if name not in self._places:
            raise UnknownName(self.kind, name, self._places)
        return name

    def load(self, name: str) -> Any:
        """Import what `name` stands for. Raises `UnknownName`, or `ConfigError` when its code cannot load."""
        place = self._places[self.check(name)]
        module, _, attribute = place.partition(":")
        try:
            return getattr(import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"{self.kind} {name!r} cannot be loaded from {place!r}: {error}") from error

    @cached_property
    def _places(self) -> dict[str, str]:
        places = dict(self._builtins)
        for point in entry_points(group=self.group) if self.group else ():
            if places.get(point.name, point.value) != point.value:
                both = f"{places[point.name]!r} and {point.value!r}"
                raise ConfigError(f"{self.kind} {point.name!r} is declared twice: {both}")
            places[point.name] = point.value
        return places
