"""One record a request, in place of uvicorn's access log: no query, no headers, no body."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rushes.server.logs import about
from rushes.server.routes import route_of

log = logging.getLogger("rushes.access")


class AccessLogMiddleware:
    """ASGI middleware: tells the log what every record is about, and what was answered, how long it took, and
    how many bytes it had.

    A record is written when the answer is over: of a stream, when it ends or its reader leaves (status 499,
    as nginx says, where nothing had been answered by then).

    Args:
        quiet: paths whose good answers, and whose "not now", are told at DEBUG only; they are asked for all
            the time.
    """

    def __init__(self, app: ASGIApp, *, quiet: Iterable[str] = ("/health", "/ready", "/metrics")) -> None:
        self._app, self._quiet = app, frozenset(quiet)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Not taken back: what the server itself logs about this request comes later, in its task.
        about(scope.setdefault("state", {}))
        begin = perf_counter()
        answered, num_bytes = 499, 0

        async def counting(message: Message) -> None:
            nonlocal answered, num_bytes
            if message["type"] == "http.response.start":
                answered = message["status"]
            elif message["type"] == "http.response.body":
                num_bytes += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, counting)
        except Exception:
            answered = 500
            raise
        finally:
            self._tell(scope, answered, perf_counter() - begin, num_bytes)

    def _tell(self, scope: Scope, status: int, seconds: float, num_bytes: int) -> None:
        is_quiet = scope["path"] in self._quiet and (status < 500 or status == 503)
        client = scope.get("client")
        tell(
            status=status,
            seconds=seconds,
            is_quiet=is_quiet,
            more={
                "method": scope["method"],
                "path": scope["path"],
                "route": route_of(scope),
                "bytes": num_bytes,
                "client": client[0] if client else None,
                "code": scope["state"].get("error_code"),
            },
        )


def tell(*, status: int, seconds: float, more: Mapping[str, object], is_quiet: bool = False) -> None:
    """Write the record of one answered request, of whatever protocol.

    Args:
        status: of HTTP, or what HTTP would have answered.
        more: `method`, `path`, `route`, `bytes`, `client` (an address), `code` (of an error).
    """
    level = logging.DEBUG if is_quiet else logging.WARNING if status >= 500 else logging.INFO
    extra = {**more, "status": status, "seconds": round(seconds, 6)}
    log.log(level, "%s %s %d %.1f ms", more["method"], more["path"], status, 1000 * seconds, extra=extra)
