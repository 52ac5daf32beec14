"""Who asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from rushes.errors import RequestError


class Unauthenticated(RequestError):
    """No key, or one that is not known."""


class Forbidden(RequestError):
    """The key may not do this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """A key's owner."""

    key_id: str
    tenant: str
    scopes: frozenset[str]

    def require(self, scope: str) -> None:
        """Raises `Forbidden`."""
        if scope not in self.scopes:
            raise Forbidden(f"this key lacks the scope {scope}")


LOCAL = Caller(
    key_id="local", tenant="default", scopes=frozenset(("videos:read", "videos:write", "usage:read"))
)


class Authenticator(Protocol):
    """Knows keys."""

    def caller(self, authorization: str | None) -> Caller:
        """Raises `Unauthenticated`."""
