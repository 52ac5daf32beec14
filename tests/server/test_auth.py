"""From a header to a caller: what is refused, what is heard when, and that nothing told holds a secret."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rushes.errors import Forbidden, StoreError, Unauthenticated
from rushes.server.auth import HEARD_WITHIN_S, LOCAL, Authenticator
from rushes.stores.accounts import AccountStore
from rushes.stores.api_keys import KeyLimits


@dataclass
class Clock:
    """Stands still until it is told."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def accounts(tmp_path: Path) -> Iterator[AccountStore]:
    accounts = AccountStore(tmp_path / "accounts.sqlite")
    yield accounts
    accounts.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def timer() -> Clock:
    return Clock(5.0)


@pytest.fixture
def authenticator(accounts: AccountStore, clock: Clock, timer: Clock) -> Authenticator:
    return Authenticator(accounts, clock=clock, timer=timer)


def test_a_caller_is_what_its_key_says(accounts: AccountStore, authenticator: Authenticator) -> None:
    limits = KeyLimits(concurrent_jobs=3)
    key, secret = accounts.keys.create("a", tenant="acme", scopes=["videos:read"], limits=limits)
    for header in (f"Bearer {secret}", f"bearer  {secret} "):
        caller = authenticator.caller(header)
        assert (caller.key_id, caller.tenant, caller.limits) == (key.id, "acme", limits)
    caller.require("videos:read")
    with pytest.raises(Forbidden, match="lacks the scope 'videos:write'") as raised:
        caller.require("videos:write")
    assert raised.value.scope == "videos:write"


def test_an_admin_has_every_scope(accounts: AccountStore, authenticator: Authenticator) -> None:
    _, secret = accounts.keys.create("a", scopes=["admin"])
    caller = authenticator.caller(f"Bearer {secret}")
    caller.require("videos:write")
    assert caller.is_admin
    assert LOCAL.is_admin


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (None, "no key"),
        ("", "no key"),
        ("Basic dXNlcjpwYXNz", "must be: Bearer KEY"),
        ("Bearer", "must be: Bearer KEY"),
        ("Bearer ", "must be: Bearer KEY"),
        ("Bearer rk_unknown", "not known"),
        ("Bearer sk-other", "not known"),
        ("Bearer rk_\xff\udc80", "not known"),
        ("Bearer rk_\0", "not known"),
        ("Bearer rk_" + 10_000 * "x", "not known"),
        ("Bearer ' OR 1=1 --", "not known"),
    ],
)
def test_what_is_no_key(authenticator: Authenticator, header: str | None, message: str) -> None:
    with pytest.raises(Unauthenticated, match=message):
        authenticator.caller(header)


def test_a_revocation_is_heard_within_seconds(
    accounts: AccountStore, authenticator: Authenticator, timer: Clock
) -> None:
    key, secret = accounts.keys.create("a")
    authenticator.caller(f"Bearer {secret}")
    accounts.keys.revoke(key.id)
    timer.now += HEARD_WITHIN_S
    with pytest.raises(Unauthenticated, match="was revoked"):
        authenticator.caller(f"Bearer {secret}")
    assert HEARD_WITHIN_S <= 5


def test_a_key_expires_at_its_second(
    accounts: AccountStore, authenticator: Authenticator, clock: Clock
) -> None:
    _, secret = accounts.keys.create("a", expires_at=clock() + 1)
    authenticator.caller(f"Bearer {secret}")
    clock.now += 1
    with pytest.raises(Unauthenticated, match="has expired"):
        authenticator.caller(f"Bearer {secret}")


def test_both_secrets_are_good_until_the_grace_is_over(
    accounts: AccountStore, authenticator: Authenticator, clock: Clock, timer: Clock
) -> None:
    key, first = accounts.keys.create("a")
    _, second = accounts.keys.rotate(key.id, grace_s=60.0, now=clock())
    for secret in (first, second):
        assert authenticator.caller(f"Bearer {secret}").key_id == key.id
    clock.now += 60
    timer.now += 60
    with pytest.raises(Unauthenticated, match="has expired"):
        authenticator.caller(f"Bearer {first}")
    authenticator.caller(f"Bearer {second}")


def test_a_key_that_was_seen_lately_is_not_read_again(
    accounts: AccountStore, authenticator: Authenticator, timer: Clock
) -> None:
    _, secret = accounts.keys.create("a")
    authenticator.caller(f"Bearer {secret}")
    accounts.close()
    authenticator.caller(f"Bearer {secret}")
    timer.now += HEARD_WITHIN_S
    with pytest.raises(StoreError):
        authenticator.caller(f"Bearer {secret}")


def test_no_message_log_or_memory_holds_a_secret(
    accounts: AccountStore, authenticator: Authenticator, timer: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    key, secret = accounts.keys.create("a", webhook_url="https://example.com/token")
    authenticator.caller(f"Bearer {secret}")
    kept = pickle.dumps(dict(authenticator._known))
    accounts.keys.revoke(key.id)
    timer.now += HEARD_WITHIN_S
    with pytest.raises(Unauthenticated) as raised:
        authenticator.caller(f"Bearer {secret}")
    for text in (str(raised.value), caplog.text, kept.decode("latin-1"), repr(accounts.keys.get(key.id))):
        assert secret[11:] not in text
