"""Who is asking: from an `Authorization` header to a caller with scopes and limits."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from rushes.errors import Forbidden, Unauthenticated
from rushes.stores.accounts import AccountStore
from rushes.stores.api_keys import SCOPES, ApiKey, KeyLimits, Scope

HEARD_WITHIN_S = 3.0
"""A key that was found is good for so long before it is looked up again: a revocation is heard within it."""
_MOST_KEPT = 10_000
_MOST_CHARACTERS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Whoever asks, as far as it matters to what is allowed.

    Attributes:
        is_cache_allowed: whether its jobs may be answered with what earlier ones made.
    """

    key_id: str
    tenant: str
    scopes: frozenset[Scope]
    limits: KeyLimits
    is_cache_allowed: bool = True

    @property
    def is_admin(self) -> bool:
        return "admin" in self.scopes

    def may(self, scope: Scope) -> bool:
        """Whether the caller has this scope; `admin` holds all of them."""
        return self.is_admin or scope in self.scopes

    def require(self, scope: Scope) -> None:
        """Raises `Forbidden` without this scope."""
        if not self.may(scope):
            raise Forbidden(scope)


LOCAL = Caller(key_id="local", tenant="default", scopes=frozenset(SCOPES), limits=KeyLimits())
"""Everybody, where no keys are asked for."""


def caller_of(key: ApiKey, *, now: float) -> Caller:
    """Whoever has this key. Raises `Unauthenticated` for one that was revoked or has expired."""
    if key.revoked_at is not None:
        raise Unauthenticated("this key was revoked")
    if key.expires_at is not None and key.expires_at <= now:
        raise Unauthenticated("this key has expired")
    return Caller(
        key_id=key.id,
        tenant=key.tenant,
        scopes=key.scopes,
        limits=key.limits,
        is_cache_allowed=key.is_cache_allowed,
    )


class Authenticator:
    """Turns `Bearer` keys into callers; safe for threads, and quick: a key that was seen lately is not looked
    up again.

    Args:
        heard_within_s: for how long. What `rushes keys` changed is heard within it.
        clock: seconds since the epoch; decides when a key has expired.
        timer: seconds that never jump.
    """

    def __init__(
        self,
        accounts: AccountStore,
        *,
        heard_within_s: float = HEARD_WITHIN_S,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._accounts = accounts
        self._heard_within_s = heard_within_s
        self._clock, self._timer = clock, timer
        self._turn = threading.Lock()
        self._known: OrderedDict[bytes, tuple[ApiKey, float]] = OrderedDict()

    def caller(self, authorization: str | None) -> Caller:
        """Who shows this header.

        Raises:
            Unauthenticated: none or another scheme than `Bearer`, or a key that is unknown, revoked or
                expired. No message holds the key.
            StoreError: keys cannot be read.
        """
        return caller_of(self._key(_secret(authorization)), now=self._clock())

    def _key(self, secret: str) -> ApiKey:
        # Kept by hash, so that no secret stays in memory.
        digest = hashlib.sha256(secret.encode()).digest()
        now = self._timer()
        with self._turn:
            known = self._known.get(digest)
        if known is not None and now < known[1]:
            return known[0]
        key = self._accounts.keys.find(secret)
        with self._turn:
            self._known.pop(digest, None)
            if key is not None:
                self._known[digest] = (key, now + self._heard_within_s)
                if len(self._known) > _MOST_KEPT:
                    self._known.popitem(last=False)
        if key is None:
            raise Unauthenticated("this key is not known")
        return key


def _secret(authorization: str | None) -> str:
    if not authorization:
        raise Unauthenticated("no key: send the header Authorization: Bearer KEY")
    scheme, _, secret = authorization.strip().partition(" ")
    secret = secret.strip()
    if scheme.lower() != "bearer" or not secret:
        raise Unauthenticated("the Authorization header must be: Bearer KEY")
    if not secret.isascii() or len(secret) > _MOST_CHARACTERS:
        raise Unauthenticated("this key is not known")
    return secret
