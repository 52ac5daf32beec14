"""Switches that a user wants to try, each with its measured effect in one run.

| switch | values |
|---|---|
| attention | a kernel of `rushes.ops.attention.BACKENDS` |
| dtype | float32, bfloat16, float16: the model is loaded a second time |
| steps | solver steps |
| guidance | off, or a scale for every noise expert |
| vae | full; tiled and tiny where the model has one: none has so far |
| temporal_attention | on; off where the model has temporal attention: none has so far |
| any field of a request | `solver=euler`, `guidance_gate=0.5`, `step_cache=0.1` ... |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rushes.config import DTYPES
from rushes.errors import InvalidRequest, UnknownName
from rushes.ops.attention import attention_kernel
from rushes.pipelines.model import Model
from rushes.pipelines.rules import PipelineRules
from rushes.profiling.clip import Ask
from rushes.profiling.subject import Rushes

OpenModel = Callable[[str], Model]
"""The same model in another dtype."""

_FIXED = {"vae": "full", "temporal_attention": "on"}
_SYNONYMS = {"steps": "num_inference_steps"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """One switch, checked.

    Attributes:
        text: as the user wrote it.
        fields: of the request.
    """

    text: str
    fields: Mapping[str, Any]
    attention: str | None = None
    dtype: str | None = None


def parse_try(text: str, rules: PipelineRules) -> Try:
    """`NAME=VALUE` as a switch of a model.

    Raises:
        InvalidRequest: no such switch, or the model has nothing of that kind; the message names the choices.

    Example:
        >>> from rushes.pipelines.rules import load_rules
        >>> parse_try("steps=10", load_rules("wan2.2-t2v-a14b")).fields
        {'num_inference_steps': 10}
    """
    name, equals, value = text.partition("=")
    if not equals or not value:
        raise InvalidRequest("try", f"{text!r} is not NAME=VALUE, such as steps=10")
    if name in _FIXED:
        return _fixed(name, value, rules)
    if name == "attention":
        attention_kernel(value)  # raises where there is none
        return Try(text=text, fields={}, attention=value)
    if name == "dtype":
        if value not in DTYPES:
            raise UnknownName("try: dtype", value, DTYPES)
        return Try(text=text, fields={}, dtype=value)
    if name == "guidance":
        return Try(text=text, fields=_guidance(value, rules))
    return Try(text=text, fields=_field(_SYNONYMS.get(name, name), value, rules))


def _fixed(name: str, value: str, rules: PipelineRules) -> Try:
    if value == _FIXED[name]:
        return Try(text=f"{name}={value}", fields={})
    what = name.replace("_", " ")
    raise InvalidRequest(
        "try", f"{rules.name} has no {what} {value!r} to switch to; its {what} is {_FIXED[name]!r}"
    )


def _guidance(value: str, rules: PipelineRules) -> dict[str, Any]:
    names = [name for name in ("guidance_high", "guidance_low") if name in rules.fields]
    scale = "1" if value == "off" else value
    return {name: _number(rules.fields[name].type, name, scale) for name in names}


def _field(name: str, value: str, rules: PipelineRules) -> dict[str, Any]:
    fields = rules.fields
    if name not in fields:
        raise UnknownName("try", name, ["attention", "dtype", "steps", "guidance", *_FIXED, *fields])
    return {name: fields[name].check(_number(fields[name].type, name, value))}


def _number(kind: type, name: str, value: str) -> Any:
    try:
        return kind(value)
    except ValueError as error:
        raise InvalidRequest("try", f"{name}={value!r}: needs {kind.__name__}") from error


def subjects(net: Model, ask: Ask, tries: Sequence[Try], open_model: OpenModel) -> list[Rushes]:
    """The baseline, and one subject for each switch."""
    baseline = Rushes(net=net, ask=ask)
    return [baseline, *(_subject(baseline, each, open_model) for each in tries)]


def _subject(baseline: Rushes, switch: Try, open_model: OpenModel) -> Rushes:
    net = baseline.net if switch.dtype is None else open_model(switch.dtype)
    ask = replace(baseline.ask, fields={**baseline.ask.fields, **switch.fields})
    return replace(baseline, net=net, ask=ask, label=switch.text, attention=switch.attention)
