"""The flat fields of a request: name, type, range and meaning, once for calls, flags, docs, schemas."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import SupportsFloat, SupportsIndex

from rushes.errors import InvalidRequest, UnknownName

Value = int | float | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field of a request.

    Attributes:
        type: `int`, `float` or `str` (one of `choices`).
        help: one line for a reader who does not know the field.
        minimum, maximum: inclusive range of a number.
        multiple, offset: a whole number is `multiple * n + offset`.
        choices: names that a `str` field accepts.
    """

    name: str
    type: type[int] | type[float] | type[str]
    help: str
    minimum: float = -math.inf
    maximum: float = math.inf
    multiple: int = 1
    offset: int = 0
    choices: tuple[str, ...] = ()

    @property
    def rule(self) -> str:
        """What values are accepted, in words that follow "must be".

        Example:
            >>> from rushes.pipelines.fields import FIELDS
            >>> FIELDS["num_inference_steps"].rule
            'a whole number from 1 to 1000'
        """
        if self.type is str:
            return f"one of {', '.join(self.choices)}" if self.choices else "a name"
        kind = "a whole number" if self.type is int else "a number"
        if self.multiple > 1:
            kind = f"{self.multiple}n+{self.offset}" if self.offset else f"a multiple of {self.multiple}"
        return f"{kind} from {_short(self.minimum)} to {_short(self.maximum)}"

    def check(self, value: object) -> Value:
        """`value` as this field's type. Raises `InvalidRequest` with the value, the rule and the nearest
        valid values, or `UnknownName` with the nearest name."""
        if self.type is str:
            return self._check_name(value)
        number = _to_int(value) if self.type is int else _to_float(value)
        if number is not None and self._is_valid(number):
            return number
        near = f"; nearest: {self._nearest(int(number))}" if number is not None and self.multiple > 1 else ""
        raise InvalidRequest(self.name, f"must be {self.rule}, got {shown(value)}{near}")

    def _check_name(self, value: object) -> str:
        if not isinstance(value, str):
            raise InvalidRequest(self.name, f"must be {self.rule}, got {shown(value)}")
        if value not in self.choices:
            raise UnknownName(self.name, value, self.choices)
        return value

    def _is_valid(self, number: float) -> bool:
        is_step = self.multiple == 1 or (number - self.offset) % self.multiple == 0
        return is_step and self.minimum <= number <= self.maximum

    def _nearest(self, number: int) -> str:
        """The valid numbers just below and just above; one alone outside the range."""
        below = number - (number - self.offset) % self.multiple
        inside = (min(max(n, self.minimum), self.maximum) for n in (below, below + self.multiple))
        return " and ".join(_short(n) for n in dict.fromkeys(inside))


def shown(value: object) -> str:
    """A value for a one-line message: its repr, and its type unless it is a number; cut short."""
    if isinstance(value, int) and value.bit_length() > 256:
        return f"a whole number of {value.bit_length()} bits"
    text = short_repr(value, 60)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return text if is_number else f"{text} ({type(value).__name__})"


def short_repr(value: object, most: int) -> str:
    """`repr(value)`, cut to `most` letters; takes no longer than these do, however large the value.

    Example:
        >>> short_repr({"a": [1, None]}, 60), short_repr(500_000 * [[]], 10)
        ("{'a': [1, None]}", '[[], []...')
    """
    text, pieces = "", _pieces(value, most)
    while len(text) <= most and (piece := next(pieces, None)) is not None:
        text += piece
    return text if len(text) <= most else text[: most - 3] + "..."


def _pieces(value: object, most: int) -> Iterator[str]:
    """Of a value's repr, in order; each of a long text is cut, so that its closing quote is not the right
    one, but behind the first `most` letters."""
    if type(value) is list:
        yield "["
        for index, each in enumerate(value):
            yield ", " if index else ""
            yield from _pieces(each, most)
        yield "]"
    elif type(value) is dict:
        yield "{"
        for index, (key, each) in enumerate(value.items()):
            yield ", " if index else ""
            yield from _pieces(key, most)
            yield ": "
            yield from _pieces(each, most)
        yield "}"
    else:
        yield repr(value[:most] if isinstance(value, (str, bytes)) else value)


def _to_int(value: object) -> int | None:
    """The whole number that `value` is, None when it is none (a bool, a float, a string)."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _to_float(value: object) -> float | None:
    """The number that `value` is, None when it is none (a bool, a string). NaN lies in no field's range."""
    if isinstance(value, bool) or not isinstance(value, SupportsFloat):
        return None
    try:
        return float(value)
    except (OverflowError, TypeError, ValueError):
        return None


def _short(number: float) -> str:
    return str(int(number)) if number == int(number) else str(number)


def _by_name(*fields: Field) -> Mapping[str, Field]:
    return MappingProxyType({field.name: field for field in fields})


FIELDS = _by_name(
    Field(name="width", type=int, help="pixels across", minimum=1, maximum=2**16),
    Field(name="height", type=int, help="pixels down", minimum=1, maximum=2**16),
    Field(name="num_frames", type=int, help="frames of the clip; 1 makes an image", minimum=1, maximum=2**16),
    Field(name="fps", type=int, help="frames per second of the written clip", minimum=1, maximum=120),
    Field(name="num_inference_steps", type=int, help="solver steps", minimum=1, maximum=1000),
    Field(
        name="flow_shift",
        type=float,
        help="s in s*sigma / (1 + (s-1)*sigma): a larger one spends more steps at high noise",
        minimum=0.01,
        maximum=100.0,
    ),
    Field(name="solver", type=str, help="integrator of the denoising trajectory"),
    Field(
        name="guidance_high",
        type=float,
        help="guidance scale, of the high-noise expert where there are two; 1 turns guidance off",
        minimum=0.0,
        maximum=100.0,
    ),
    Field(
        name="guidance_low",
        type=float,
        help="guidance scale of the low-noise expert, for models that have two experts",
        minimum=0.0,
        maximum=100.0,
    ),
    Field(
        name="guidance_gate",
        type=float,
        help="share of the steps that run the unconditional forward, from 9 steps on; later ones reuse it",
        minimum=0.01,
        maximum=1.0,
    ),
    Field(
        name="step_cache",
        type=float,
        help="accumulated relative error up to which steps reuse a forward, from 9 steps on; 0 runs them all",
        minimum=0.0,
        maximum=100.0,
    ),
    Field(
        name="seed",
        type=int,
        help="of all noise; drawn at random and recorded when not given",
        minimum=0,
        maximum=2**63 - 1,
    ),
)
"""Every field in the order of flags and docs. A model narrows some: `PipelineRules.fields`."""
