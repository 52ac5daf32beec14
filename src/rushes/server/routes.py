"""Which route a request took, by a name that does not grow with the requests."""

from __future__ import annotations

from starlette.types import Scope

UNKNOWN_ROUTE = "other"


def route_of(scope: Scope) -> str:
    """The path as the application declares it, `/v1/videos/{video_id}`; "other" where no route took it.

    To be asked when the application has run: its router writes the answer into the scope.
    """
    path = getattr(scope.get("route"), "path", None)
    return path if isinstance(path, str) and path else UNKNOWN_ROUTE
