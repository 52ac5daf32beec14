"""A plan: the passes that a model is loaded with, and sampling fields that go with them; a JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from hashlib import blake2b
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from rushes.errors import ConfigError, UnknownName, did_you_mean
from rushes.models.revision import revision
from rushes.passes.base import (
    PASSES,
    ClipShape,
    Expert,
    Part,
    Pass,
    PerExpert,
    ReadsFiles,
    WarmsUp,
    settings_of,
)

if TYPE_CHECKING:
    from torch import nn

N = TypeVar("N", bound="nn.Module")

FORMAT = 1
KEYS = ("format", "model", "passes", "fields", "measured")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is done to a model before it serves.

    Attributes:
        passes: in any order; one of each name.
        fields: defaults of a request (`step_cache`, `preset`, ...), under the caller's own.
        model: the pipeline that it was measured with; None suits every one.
        measured: what `rushes optimize` wrote about it. It decides nothing.

    Example:
        >>> from rushes.passes.attention import Attention
        >>> plan = Plan(passes=(Attention(backend="sdpa"),), fields={"guidance_gate": 0.5})
        >>> print(*(one.name for one in plan.passes), len(plan.identity))
        attention 16
    """

    passes: tuple[Pass, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    model: str | None = None
    measured: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        names = [one.name for one in self.passes]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"plan: pass {name!r} is listed {names.count(name)} times; once is enough")

    def apply(self, part: Part, network: N, expert: Expert = "only") -> N:
        """The network after the passes of its part. Raises `ConfigError` when one cannot change it."""
        kind = type(network)
        for one in sorted(self.passes, key=lambda one: one.order):
            if one.part == part:
                mine = one.for_expert(expert) if isinstance(one, PerExpert) else one
                changed = mine.apply(network)
                assert isinstance(changed, kind), f"pass {one.name} made a {type(changed).__name__}"
                network = changed
        return network

    def warm_up(self, part: Part, network: nn.Module, shape: ClipShape) -> None:
        """Have ready what clips of this shape run in a network that `apply` returned: nothing is compiled for
        them any more."""
        # From the outside in: compiled blocks take stored code before another pass runs them.
        for one in sorted(self.passes, key=lambda one: -one.order):
            if one.part == part and isinstance(one, WarmsUp):
                one.warm_up(network, shape)

    @property
    def identity(self) -> str:
        """Equal for plans that change a clip alike; empty without passes. Fields are part of requests."""
        if not self.passes:
            return ""
        files = [file for one in self.passes if isinstance(one, ReadsFiles) for file in one.files()]
        content = json.dumps(self._passes()) + (revision(files) if files else "")
        return blake2b(content.encode(), digest_size=8).hexdigest()

    def check_model(self, model: str) -> None:
        """Raises `ConfigError` when it was made for another model."""
        if self.model not in (None, model):
            raise ConfigError(f"plan: made for {self.model}, not for {model}; run `rushes optimize` for it")

    def to_json(self) -> str:
        """What `read_plan` reads."""
        content = {
            "format": FORMAT,
            "model": self.model,
            "passes": self._passes(),
            "fields": dict(self.fields),
            "measured": dict(self.measured),
        }
        return json.dumps(content, indent=2) + "\n"

    def _passes(self) -> list[dict[str, Any]]:
        return [{"name": one.name, **settings_of(one)} for one in sorted(self.passes, key=lambda p: p.order)]


def read_plan(file: Path) -> Plan:
    """The plan of a file. Raises `ConfigError`: no file, no plan, an unknown key or pass, a bad value."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"plan {file}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ConfigError(f"plan {file}: is not JSON ({error})") from error
    try:
        return plan_of(content)
    except (ConfigError, UnknownName) as error:
        raise ConfigError(f"plan {file}: {error}") from error


def plan_of(content: object) -> Plan:
    """The plan of a file's content. Raises `ConfigError` or `UnknownName`."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ConfigError(f"not a plan of format {FORMAT}")
    _check_keys("plan", content, KEYS)
    passes = content.get("passes", [])
    if not isinstance(passes, list) or not all(isinstance(one, dict) for one in passes):
        raise ConfigError('passes: not a list of objects such as {"name": "compile"}')
    return Plan(
        passes=tuple(make_pass(**{"name": "", **one}) for one in passes),
        fields=MappingProxyType(dict(content.get("fields") or {})),
        model=content.get("model"),
        measured=MappingProxyType(dict(content.get("measured") or {})),
    )


def make_pass(name: str, **settings: Any) -> Pass:
    """The pass of this name with these fields, lists as tuples. Raises `UnknownName` or `ConfigError`."""
    kind = PASSES.load(name)
    _check_keys(f"pass {name}", settings, [field.name for field in fields(kind)])
    ready = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
    try:
        made: Pass = kind(**ready)
    except TypeError as error:  # a field without a default is missing
        raise ConfigError(f"pass {name}: {error}") from error
    return made


def _check_keys(where: str, given: Mapping[str, Any], known: list[str] | tuple[str, ...]) -> None:
    for key in given:
        if key not in known:
            choices = ", ".join(known) or "none"
            raise ConfigError(f"{where}: unknown key {key!r}{did_you_mean(key, known)}; there are {choices}")
