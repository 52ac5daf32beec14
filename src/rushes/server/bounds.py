"""How much, and for how long, a client may keep a gateway busy with one request."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Beyond these a request is refused, or its connection closed.

    Attributes:
        header_bytes: of a request's line and headers.
        header_s: from a connection's begin, or a request's first byte, until its headers are whole.
        body_bytes: of a body.
        body_s: until a body is whole.
        stall_s: how long a client may read nothing of what waits for it.
    """

    header_bytes: int = 64 * 1024
    header_s: float = 15.0
    body_bytes: int = 1_000_000
    body_s: float = 30.0
    stall_s: float = 60.0
