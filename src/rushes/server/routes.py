"""Which route a request took, and by which method, in words that do not grow with the requests."""

from __future__ import annotations

from starlette.types import Scope

METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
OTHER = "other"


def route_of(scope: Scope) -> str:
    """The path as the application declares it, `/v1/videos/{video_id}`; "other" where no route took it.

    To be asked when the application has run: its router writes the answer into the scope.
    """
    path = getattr(scope.get("route"), "path", None)
    return path if isinstance(path, str) and path else OTHER


def method_of(scope: Scope) -> str:
    """Its method; "other" for a word of the client's own."""
    method: str = scope["method"]
    return method if method in METHODS else OTHER
