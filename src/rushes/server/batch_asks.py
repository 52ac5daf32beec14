"""What a batch asks for: a template and rows, to the fields of one request a row."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rushes.errors import InvalidRequest, UnknownName
from rushes.pipelines.fields import shown
from rushes.pipelines.rules import FIELDS, MAX_PROMPT_CHARACTERS
from rushes.server.asks import OPENAI, OPTIONS, TEXTS

MAX_ROWS = 10_000
KNOWN = ("template", "rows", "estimate")
COLUMNS = tuple(name for name in (*TEXTS, *OPENAI, *OPTIONS, *FIELDS) if name != "prompt")
"""Columns that are fields of a request."""

_PART = re.compile(r"\{\{|\}\}|\{([A-Za-z_][A-Za-z0-9_]*)\}|[{}]")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchAsk:
    """A batch as it was asked for.

    Attributes:
        template: a prompt with `{name}` where a row's column goes; `{{` and `}}` are braces.
        fields: of every row's request.
    """

    template: str
    rows: Sequence[Mapping[str, Any]]
    fields: Mapping[str, Any]

    def bodies(self) -> list[dict[str, Any]]:
        """The fields of each row's request: the batch's, and over them the row's own. Raises
        `InvalidRequest` with row and field."""
        names = names_in(self.template)
        found = []
        for number, row in enumerate(self.rows, start=1):
            own = {name: row[name] for name in row if name in COLUMNS and row[name] is not None}
            for name in row:
                if name not in names and name not in COLUMNS:
                    raise in_row(number, UnknownName(name, name, (*names, *COLUMNS)))
            prompt = fill(self.template, row, number)
            found.append({**self.fields, **own, "prompt": prompt, "priority": "batch"})
        return found


def read_batch(body: Mapping[str, Any]) -> BatchAsk:
    """A batch of JSON's fields. Raises `InvalidRequest`."""
    template, rows = body.get("template"), body.get("rows")
    if not isinstance(template, str) or not template.strip():
        raise InvalidRequest(
            "template", f"must be a prompt with {{name}} for each column, got {shown(template)}"
        )
    if not isinstance(rows, list) or not 1 <= len(rows) <= MAX_ROWS:
        got = f"{len(rows)} of them" if isinstance(rows, list) else shown(rows)
        raise InvalidRequest("rows", f"must be a list of 1 to {MAX_ROWS} objects, got {got}")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise InvalidRequest(
                f"rows[{number - 1}]", f"in row {number}: must be an object, got {shown(row)}"
            )
    if body.get("priority") not in (None, "batch"):
        raise InvalidRequest("priority", f"a batch runs in the batch lane, got {shown(body['priority'])}")
    if body.get("prompt") is not None:
        raise InvalidRequest("prompt", "is made of the template; leave it out")
    fields = {name: value for name, value in body.items() if name not in KNOWN and value is not None}
    return BatchAsk(template=template, rows=rows, fields=fields)


def names_in(template: str) -> tuple[str, ...]:
    """Placeholders, each once. Raises `InvalidRequest` for a brace that belongs to none."""
    found: dict[str, None] = {}
    for part in _PART.finditer(template):
        if part[1] is not None:
            found[part[1]] = None
        elif part[0] in ("{", "}"):
            rule = "must hold {name} for a column, {{ and }} for braces"
            raise InvalidRequest(
                "template", f"{rule}; got {shown(template[part.start() : part.start() + 20])}"
            )
    return tuple(found)


def fill(template: str, row: Mapping[str, Any], number: int) -> str:
    """The prompt of a row. Raises `InvalidRequest`, before it is put together."""
    values: dict[str, str] = {}
    length = len(template)
    for part in _PART.finditer(template):
        name = part[1]
        if name is not None and name not in values:
            values[name] = _value(row, name, number)
        length += (1 if name is None else len(values[name])) - len(part[0])
    if length > MAX_PROMPT_CHARACTERS:
        rule = f"may have {MAX_PROMPT_CHARACTERS} characters, the filled template has {length}"
        raise in_row(number, InvalidRequest("prompt", rule))
    return _PART.sub(lambda part: part[0][0] if part[1] is None else values[part[1]], template)


def _value(row: Mapping[str, Any], name: str, number: int) -> str:
    given = row.get(name)
    text = "" if given is None or isinstance(given, (bool, dict, list)) else str(given)
    if not text.strip():
        rule = f"{{{name}}} of the template needs a text or a number, got {shown(given)}"
        raise in_row(number, InvalidRequest(name, rule))
    return text


def in_row(number: int, error: InvalidRequest) -> InvalidRequest:
    """The same error, of one row of many."""
    return InvalidRequest(f"rows[{number - 1}].{error.field}", f"in row {number}: {error.reason}")
