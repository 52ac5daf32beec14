"""What the edges of one gateway process share, and what they need to know of a caller."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING

from starlette.requests import Request

from rushes.server.auth import LOCAL, Authenticator, Caller
from rushes.server.bounds import Bounds
from rushes.server.gateway import Gateway
from rushes.stores.api_keys import Scope

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from rushes.server.batch_runner import Batching
    from rushes.server.ends import Ends
    from rushes.server.limits import Limits
    from rushes.server.metrics import GatewayMetrics
    from rushes.stores.accounts import AccountStore

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The parts of a running gateway.

    Attributes:
        authenticator: None where everybody is `LOCAL`.
        limits: None where nothing is limited.
        ends: settles what has ended; None where nothing is limited.
        accounts: None where nothing is charged.
        batching: None where no batches are taken.
        bounds: of one request.
        cors: origins whose pages may call; "*" for all.
        is_local_only: only this machine is answered: nobody shows a key.
        media_origin: scheme, host and port of finished videos that are not sent by the gateway itself.
        metrics, tracer: None where nobody looks.
        started_at: by `monotonic`.
    """

    gateway: Gateway
    authenticator: Authenticator | None = None
    limits: Limits | None = None
    ends: Ends | None = None
    accounts: AccountStore | None = None
    batching: Batching | None = None
    bounds: Bounds = field(default_factory=Bounds)
    cors: Sequence[str] = ()
    media_origin: str | None = None
    is_local_only: bool = False
    metrics: GatewayMetrics | None = None
    tracer: Tracer | None = None
    started_at: float = field(default_factory=monotonic)


def service_of(request: Request) -> Service:
    """Of the app that got a request."""
    service: Service = request.app.state.service
    return service


async def caller_of(request: Request, scope: Scope) -> Caller:
    """Who asks over HTTP; see `authorized`."""
    return await authorized(service_of(request), request.headers.get("authorization"), scope)


async def authorized(service: Service, authorization: str | None, scope: Scope) -> Caller:
    """Who asks, allowed to do this and within its rate.

    Raises:
        Unauthenticated, Forbidden, RateLimited: see `rushes.server.auth` and `limits`.
    """
    if service.authenticator is None:
        return LOCAL
    caller = service.authenticator.caller(authorization)
    caller.require(scope)
    if service.limits is not None:
        if service.limits.may_wait(caller):
            await asyncio.to_thread(service.limits.check_rate, caller)
        else:
            service.limits.check_rate(caller)
    return caller


def new_request_id() -> str:
    """For logs and for whoever reports an error."""
    return f"req_{secrets.token_hex(12)}"


def request_id_of(given: str) -> str:
    """The caller's own id if it is a sane one, else a new one."""
    is_sane = 0 < len(given) <= 64 and all(letter.isalnum() or letter in "_-." for letter in given)
    return given if is_sane and given.isascii() else new_request_id()
