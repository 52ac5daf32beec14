"""Requests and answers of gRPC, to and from the dictionaries that HTTP speaks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from google.protobuf.struct_pb2 import Struct, Value

from rushes.errors import InvalidRequest
from rushes.server.problems import Problem
from rushes.server.proto.rushes.v1 import videos_pb2
from rushes.types import JobEvent

MOST_EXACT = 2**53
"""Whole numbers beyond are not exact in a Struct."""

CODES: Mapping[int, str] = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "FAILED_PRECONDITION",
    410: "FAILED_PRECONDITION",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
}
"""gRPC's word by HTTP's status; any other is INTERNAL."""

OWN_CODES: Mapping[str, str] = {"idempotency_conflict": "ALREADY_EXISTS"}
"""By a problem's code, where its status says too little."""

MAX_MESSAGE = 1000
"""Characters of an error's text: all trailing metadata together may have 8 kB."""


def code_of(problem: Problem) -> str:
    """Name of the `grpc.StatusCode`."""
    return OWN_CODES.get(problem.code) or CODES.get(problem.status, "INTERNAL")


def trailers_of(problem: Problem, request_id: str) -> tuple[tuple[str, str | bytes], ...]:
    """Trailing metadata of an error: the same words as in HTTP's JSON."""
    error = problem.content(request_id)["error"]
    error["message"] = error["message"][:MAX_MESSAGE]
    if isinstance(error.get("rule"), str):
        error["rule"] = error["rule"][:MAX_MESSAGE]
    data = json.dumps(error, ensure_ascii=False).encode()
    retry = problem.headers().get("Retry-After")
    found: list[tuple[str, str | bytes]] = [("rushes-code", problem.code), ("rushes-error-bin", data)]
    found += [] if retry is None else [("retry-after", retry)]
    return tuple(found)


def body_of(request: videos_pb2.CreateRequest) -> dict[str, Any]:
    """What the same request would be in JSON. Raises `InvalidRequest` for a field that is given twice."""
    typed = {
        field.name: getattr(request, field.name)
        for field, _ in request.ListFields()
        if field.name not in ("fields", "idempotency_key")
    }
    more = {name: _of_value(name, value) for name, value in request.fields.fields.items()}
    for name in more:
        if name in typed or name == "idempotency_key":
            raise InvalidRequest(name, "is a field of the message; leave it out of `fields`")
    return {**typed, **more}


def video_message(video: Mapping[str, Any]) -> videos_pb2.Video:
    """A video object."""
    known = videos_pb2.Video.DESCRIPTOR.fields_by_name
    typed = {name: value for name, value in video.items() if name in known and value is not None}
    rest = {name: value for name, value in video.items() if name not in known and name != "object"}
    return videos_pb2.Video(**typed, fields=struct_of(rest))


def event_message(event: JobEvent, data: Mapping[str, Any]) -> videos_pb2.Event:
    """An event whose `data` are those of HTTP."""
    video = data.get("video")
    own = ("number", "at", "job_id", "video")
    return videos_pb2.Event(
        number=event.number,
        kind=event.kind,
        at=event.at,
        video_id=event.job_id,
        data=struct_of({name: value for name, value in data.items() if name not in own}),
        video=None if video is None else video_message(video),
    )


def struct_of(data: Mapping[str, Any]) -> Struct:
    """Of JSON; a whole number that a double cannot hold is written as text, as protobuf's own JSON does."""
    struct = Struct()
    struct.update({name: _exact(value) for name, value in data.items()})
    return struct


def _exact(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _exact(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_exact(each) for each in value]
    is_large = isinstance(value, int) and abs(value) > MOST_EXACT
    return str(value) if is_large else value


def _of_value(name: str, value: Value) -> Any:
    """A number without a fraction is a whole one: fields of both kinds take it."""
    kind = value.WhichOneof("kind")
    if kind == "number_value":
        number: float = value.number_value
        if abs(number) > MOST_EXACT:
            raise InvalidRequest(name, f"{number:g} is beyond the whole numbers that a Struct can hold")
        return int(number) if number.is_integer() else number
    if kind in ("string_value", "bool_value"):
        return getattr(value, kind)
    if kind in ("struct_value", "list_value"):
        raise InvalidRequest(name, "must be a number, a text or a truth value, not a list or a struct")
    return None
