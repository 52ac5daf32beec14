"""Bodies of requests: bounded in bytes and seconds, JSON or a form."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rushes.pipelines.rules import FIELDS
from rushes.server.asks import read_form
from rushes.server.bounds import Bounds
from rushes.server.problems import Problem, ProblemError
from rushes.server.service import service_of

SHORT_BYTES = 32 * 1024
"""Of JSON that is parsed in a few milliseconds, on the loop; longer JSON is parsed on a thread."""

MOST_LEVELS = 100
"""Of lists and objects within each other."""

MOST_PARTS = 25_000
"""Lists and objects of a body: whoever parses more keeps the interpreter, and so the loop, for 100 ms."""

MOST_VALUES = 120_000

_TEXT = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
"""A text to its end, or to that of the body, so that no character is looked at twice."""

_HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")
"""An escape of half a surrogate pair; most of them stand beside their other half."""


class BodyGuard:
    """ASGI middleware: a body that is too large or comes too slowly ends its request.

    Raises `ProblemError` from `receive`, so within the endpoint that reads the body.
    """

    def __init__(self, app: ASGIApp, bounds: Bounds) -> None:
        self._app, self._max_bytes, self._max_seconds = app, bounds.body_bytes, bounds.body_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        deadline, num_bytes, is_whole = time.monotonic() + self._max_seconds, 0, False

        async def guarded() -> Message:
            nonlocal num_bytes, is_whole
            if is_whole:  # what comes now is a disconnect, whenever
                return await receive()
            try:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    message = await receive()
            except TimeoutError:
                raise ProblemError(_too_slow(self._max_seconds)) from None
            num_bytes += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            if num_bytes > self._max_bytes:
                raise ProblemError(_too_large(self._max_bytes))
            return message

        return await self._app(scope, guarded, send)


async def read_body(request: Request) -> dict[str, Any]:
    """The fields of a request, from JSON or a form. Raises `ProblemError`."""
    length, most = request.headers.get("content-length", "0"), service_of(request).bounds.body_bytes
    if length.isdigit() and int(length) > most:
        raise ProblemError(_too_large(most))
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind == "application/json":
        data = await request.body()
        return await asyncio.to_thread(_json, data) if len(data) > SHORT_BYTES else _json(data)
    if kind == "application/x-www-form-urlencoded" and (await request.body()).lstrip().startswith(b"{"):
        # As curl sends it with -d alone.
        raise ProblemError(_unsupported("the body looks like JSON; send Content-Type: application/json"))
    if kind in ("multipart/form-data", "application/x-www-form-urlencoded"):
        return read_form(await _form(request), FIELDS)
    message = f"the body is {kind[:80]!r}; send application/json or multipart/form-data"
    raise ProblemError(_unsupported(message))


def _json(data: bytes) -> dict[str, Any]:
    try:
        text = data.decode(json.detect_encoding(data))
        _check_parts(text)
        body = json.loads(text, parse_constant=_not_a_number, object_pairs_hook=_without_twins)
        _check_depth(body)
        if _HALF_PAIR.search(text):  # can be written in JSON as an escape, and in no answer of ours
            json.dumps(body, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        what = "a text of it is no Unicode" if isinstance(error, UnicodeError) else str(error)
        _invalid("invalid_json", f"the body is not JSON: {what}")
    if not isinstance(body, dict):
        _invalid("invalid_json", f"the body must be a JSON object, got {type(body).__name__}")
    return body


async def _form(request: Request) -> Mapping[str, object]:
    try:
        async with request.form(max_files=1, max_fields=100) as form:
            names = [name for name, _ in form.multi_items()]
            if len(names) != len(set(names)):
                _invalid("invalid_multipart", "the form has a field twice")
            return {name: await _value(name, value) for name, value in form.items()}
    except ProblemError:
        raise
    except Exception as error:  # the parser's own errors are of several kinds
        _invalid("invalid_multipart", f"the form cannot be read: {getattr(error, 'detail', error)}")


async def _value(name: str, value: str | UploadFile) -> str | bytes | None:
    """Of a file its name, but of a mask what is in it."""
    if isinstance(value, str):
        return value
    return await value.read() if name == "mask" else value.filename


def _check_parts(text: str) -> None:
    """Before they are made. Brackets within texts count only where all of them are too many."""
    for marks, most, what in (("[{", MOST_PARTS, "lists and objects"), (",", MOST_VALUES, "values")):
        num = sum(map(text.count, marks))
        if num > most:
            num = sum(map(_TEXT.sub("", text).count, marks))
        if num > most:
            raise ValueError(f"it has more than {most} {what}")


def _check_depth(body: object) -> None:
    """How deep the parser goes depends on its thread's stack, and who reads the value may have less left."""
    level = [body]
    for _ in range(MOST_LEVELS):
        level = [each for value in level for each in _items(value) if isinstance(each, (dict, list))]
        if not level:
            return
    raise ValueError(f"it is nested deeper than {MOST_LEVELS} levels")


def _items(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has a name twice")
    return found


def _not_a_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


def _invalid(code: str, message: str) -> NoReturn:
    raise ProblemError(Problem(status=400, code=code, message=message))


def _unsupported(message: str) -> Problem:
    return Problem(status=415, code="unsupported_media_type", message=message)


def _too_large(limit: int) -> Problem:
    return Problem(status=413, code="body_too_large", message=f"the body is longer than {limit} bytes")


def _too_slow(limit_s: float) -> Problem:
    return Problem(status=408, code="body_too_slow", message=f"the body took longer than {limit_s:g} s")
