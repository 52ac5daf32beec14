"""Keys of the service's callers: who they are and what they may do. Their secrets are held hashed."""

from __future__ import annotations

import base64
import hashlib
import hmac
import math
import secrets
import sqlite3
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from rushes.errors import InvalidRequest, UnknownKey, UnknownName
from rushes.stores.sqlite_database import Database

Scope = Literal["videos:write", "videos:read", "usage:read", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
DEFAULT_SCOPES: tuple[Scope, ...] = ("videos:write", "videos:read", "usage:read")
GRACE_S = 24 * 3600.0
_MARK = "rk_"
_PREFIX_LENGTH = len(_MARK) + 8
_SECRET_BYTES = 32  # of which the prefix shows 6: 208 bits stay unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLimits:
    """What a key may take; None: as much as there is.

    Attributes:
        gpu_seconds_per_day: device seconds as predicted, of the jobs of one day in UTC.
    """

    requests_per_minute: int | None = None
    concurrent_jobs: int | None = None
    gpu_seconds_per_day: float | None = None

    def __post_init__(self) -> None:
        """Raises `InvalidRequest` for a limit that lets nothing pass."""
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InvalidRequest(name, f"{value} must be above 0; leave it out for no limit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """Where a key's owner wants to hear of the ends of jobs, and what both sides sign with."""

    url: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key without its secret. Times are seconds since the epoch.

    Attributes:
        prefix: how its latest secret begins, to tell keys apart.
        is_cache_allowed: whether its jobs may be answered with what earlier ones made.
    """

    id: str
    name: str
    tenant: str
    prefix: str
    scopes: frozenset[Scope]
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    limits: KeyLimits
    webhook: Webhook | None
    is_cache_allowed: bool


class ApiKeys:
    """Makes, finds, rotates and revokes keys. Whoever asks decides by the times what a key is good for."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        name: str,
        *,
        tenant: str = "default",
        scopes: Collection[str] = DEFAULT_SCOPES,
        limits: KeyLimits | None = None,
        expires_at: float | None = None,
        webhook_url: str | None = None,
        is_cache_allowed: bool = True,
        now: float | None = None,
    ) -> tuple[ApiKey, str]:
        """A new key and its secret, which nobody can read again.

        Raises:
            InvalidRequest: an empty name or tenant, an unknown scope, no time for `expires_at`.
        """
        _check_words(name, tenant, scopes)
        _check_finite("expires_at", expires_at)
        limits = limits or KeyLimits()
        key_id, secret = f"key_{secrets.token_hex(8)}", _new_secret()
        row = {
            "id": key_id,
            "name": name,
            "tenant": tenant,
            "scopes": " ".join(sorted(set(scopes))),
            "created_at": time.time() if now is None else now,
            "expires_at": expires_at,
            "requests_per_minute": limits.requests_per_minute,
            "concurrent_jobs": limits.concurrent_jobs,
            "gpu_seconds_per_day": limits.gpu_seconds_per_day,
            "webhook_url": webhook_url,
            "webhook_secret": None if webhook_url is None else new_webhook_secret(),
            "is_cache_allowed": int(is_cache_allowed),
        }
        columns, marks = ", ".join(row), ", ".join(f":{column}" for column in row)
        with self._database.write() as connection:
            connection.execute(f"INSERT INTO keys ({columns}) VALUES ({marks})", row)
            _add_secret(connection, key_id, secret)
            return _get(connection, key_id), secret

    def find(self, secret: str) -> ApiKey | None:
        """The key with this secret, revoked or not, or None. `expires_at` is this secret's: after a rotation,
        sooner than the key's.

        Found by the visible prefix; the whole is compared in constant time."""
        if not (secret.isascii() and secret.startswith(_MARK)):
            return None
        digest = _digest(secret)
        found = None
        with self._database.read() as connection:
            for row in connection.execute(
                "SELECT * FROM secrets WHERE prefix = ?", (secret[:_PREFIX_LENGTH],)
            ).fetchall():
                if hmac.compare_digest(row["sha256"], digest):
                    found = _get(connection, row["key_id"], valid_until=row["valid_until"])
        return found

    def get(self, key_id: str) -> ApiKey:
        """Raises `UnknownKey`."""
        with self._database.read() as connection:
            return _get(connection, key_id)

    def list(self, *, tenant: str | None = None) -> Sequence[ApiKey]:
        """Oldest first; None: of all tenants."""
        condition = "keys.tenant = ?" if tenant is not None else "? IS NULL"
        with self._database.read() as connection:
            rows = connection.execute(f"{_SELECT} WHERE {condition} ORDER BY created_at, id", (tenant,))
            return tuple(_key(row) for row in rows)

    def revoke(self, key_id: str, *, now: float | None = None) -> ApiKey:
        """For good, all of its secrets; a second time changes nothing. Raises `UnknownKey`."""
        with self._database.write() as connection:
            connection.execute(
                "UPDATE keys SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL",
                (time.time() if now is None else now, key_id),
            )
            return _get(connection, key_id)

    def rotate(
        self, key_id: str, *, grace_s: float = GRACE_S, now: float | None = None
    ) -> tuple[ApiKey, str]:
        """A new secret for the key; the ones before it are good for `grace_s` seconds more at most. Limits
        and what is used of them stay.

        Raises:
            UnknownKey: none has this id.
            InvalidRequest: it was revoked, or `grace_s` is no number of seconds.
        """
        _check_finite("grace_s", grace_s)
        secret = _new_secret()
        until = (time.time() if now is None else now) + grace_s
        with self._database.write() as connection:
            if _get(connection, key_id).revoked_at is not None:
                raise InvalidRequest("key", f"{key_id} was revoked and cannot be rotated; create another")
            connection.execute(
                "UPDATE secrets SET valid_until = min(coalesce(valid_until, ?1), ?1) WHERE key_id = ?2",
                (until, key_id),
            )
            _add_secret(connection, key_id, secret)
            return _get(connection, key_id), secret


def new_webhook_secret() -> str:
    """As Standard Webhooks writes it: 32 random bytes in base64 behind `whsec_`."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


_SELECT = """
    SELECT keys.*, (
        SELECT prefix FROM secrets WHERE key_id = keys.id ORDER BY secrets.rowid DESC LIMIT 1
    ) AS prefix FROM keys
"""


def _check_words(name: str, tenant: str, scopes: Collection[str]) -> None:
    for field_name, value in (("name", name), ("tenant", tenant)):
        if not value.strip() or not value.isprintable() or len(value) > 100:
            raise InvalidRequest(field_name, f"{value[:100]!r} must be 1 to 100 printable characters")
    if not scopes:
        raise InvalidRequest("scope", f"none given; choose from {', '.join(SCOPES)}")
    for scope in scopes:
        if scope not in SCOPES:
            raise UnknownName("scope", scope, SCOPES)


def _check_finite(name: str, value: float | None) -> None:
    """SQLite keeps NaN as NULL, which is for ever."""
    if value is not None and not math.isfinite(value):
        raise InvalidRequest(name, f"{value} is no number of seconds")


def _new_secret() -> str:
    return _MARK + secrets.token_urlsafe(_SECRET_BYTES)


def _digest(secret: str) -> bytes:
    """A plain hash will do: there is nothing to guess in 256 random bits."""
    return hashlib.sha256(secret.encode()).digest()


def _add_secret(connection: sqlite3.Connection, key_id: str, secret: str) -> None:
    connection.execute(
        "INSERT INTO secrets (key_id, prefix, sha256) VALUES (?, ?, ?)",
        (key_id, secret[:_PREFIX_LENGTH], _digest(secret)),
    )


def _get(connection: sqlite3.Connection, key_id: str, *, valid_until: float | None = None) -> ApiKey:
    row = connection.execute(f"{_SELECT} WHERE id = ?", (key_id,)).fetchone()
    if row is None:
        raise UnknownKey(f"{key_id[:80]!r}: no key has this id; rushes keys list shows them")
    return _key(row, valid_until=valid_until)


def _key(row: sqlite3.Row, *, valid_until: float | None = None) -> ApiKey:
    ends = [at for at in (row["expires_at"], valid_until) if at is not None]
    url = row["webhook_url"]
    return ApiKey(
        id=row["id"],
        name=row["name"],
        tenant=row["tenant"],
        prefix=row["prefix"],
        scopes=frozenset(row["scopes"].split()),
        created_at=row["created_at"],
        expires_at=min(ends, default=None),
        revoked_at=row["revoked_at"],
        limits=KeyLimits(
            requests_per_minute=row["requests_per_minute"],
            concurrent_jobs=row["concurrent_jobs"],
            gpu_seconds_per_day=row["gpu_seconds_per_day"],
        ),
        webhook=None if url is None else Webhook(url=url, secret=row["webhook_secret"]),
        is_cache_allowed=bool(row["is_cache_allowed"]),
    )
