"""Keeps a gateway without keys to its own machine: pages of others must not reach it through a browser."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from rushes.server.problems import Problem
from rushes.server.settings import is_loopback


class LocalOnly:
    """ASGI middleware: a request must name this machine as its host, and come from a page of this server,
    from one of the origins given, or from no page at all. Otherwise 403.

    The first stops a name that somebody points at 127.0.0.1, the second forms of other sites.
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str] = ()) -> None:
        self._app, self._origins = app, frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "http" and (reason := self._refusal(scope)) is not None:
            problem = Problem(status=403, code="forbidden", message=reason)
            answer = JSONResponse(problem.content(scope.get("state", {}).get("request_id")), status_code=403)
            return await answer(scope, receive, send)
        return await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> str | None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get(b"host", ""), headers.get(b"origin")
        try:
            is_here = is_loopback(urlsplit(f"//{host}").hostname or "")
        except ValueError:
            is_here = False
        if not is_here:
            return f"without keys only this machine is served, by its own name, not by {host[:80]!r}"
        is_own = origin is None or urlsplit(origin).netloc == host
        if not is_own and not self._origins & {origin, "*"}:
            return f"without keys pages of {(origin or '')[:80]!r} may not call; name it with --cors"
        return None
