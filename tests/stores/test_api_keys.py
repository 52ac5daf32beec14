"""Keys: found by their secrets alone, rotated, revoked; secrets lie nowhere in the file."""

from __future__ import annotations

import hashlib
import hmac
import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from rushes.errors import InvalidRequest, StoreError, UnknownBatch, UnknownKey, UnknownName
from rushes.stores.accounts import AccountStore
from rushes.stores.accounts_schema import ACCOUNTS
from rushes.stores.api_keys import DEFAULT_SCOPES, KeyLimits
from rushes.stores.sqlite import SqliteJobStore
from rushes.stores.sqlite_schema import JOBS


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "accounts.sqlite"


@pytest.fixture(params=["memory", "file"])
def accounts(request: pytest.FixtureRequest, path: Path) -> Iterator[AccountStore]:
    accounts = AccountStore(":memory:" if request.param == "memory" else path)
    yield accounts
    accounts.close()


def test_a_key_is_found_by_its_secret(accounts: AccountStore) -> None:
    limits = KeyLimits(requests_per_minute=5, concurrent_jobs=2, gpu_seconds_per_day=1.5)
    key, secret = accounts.keys.create(
        "ci", tenant="acme", limits=limits, expires_at=9.0, webhook_url="https://example.com/", now=5.0
    )
    assert secret.startswith("rk_")
    assert len(secret) >= 3 + 32
    assert accounts.keys.find(secret) == accounts.keys.get(key.id) == key
    assert (key.tenant, key.limits, key.created_at, key.expires_at) == ("acme", limits, 5.0, 9.0)
    assert (key.scopes, key.prefix) == (frozenset(DEFAULT_SCOPES), secret[:11])
    assert key.webhook is not None
    assert key.webhook.secret.startswith("whsec_")
    assert key.webhook.secret not in repr(key)


def test_what_is_not_a_secret_finds_nothing(accounts: AccountStore) -> None:
    _, secret = accounts.keys.create("a")
    other = secret[:-1] + ("A" if secret[-1] != "A" else "B")
    for wrong in ("", "rk_", secret[:11], other, secret + "x", secret.upper(), "rk_\udc80", "rk_é", "rk_\0"):
        assert accounts.keys.find(wrong) is None


def test_two_secrets_that_begin_alike(accounts: AccountStore) -> None:
    """The prefix only narrows the search."""
    first, secret = accounts.keys.create("a")
    second, _ = accounts.keys.create("b")
    with accounts._database.write() as connection:
        connection.execute("UPDATE secrets SET prefix = ? WHERE key_id = ?", (secret[:11], second.id))
    found = accounts.keys.find(secret)
    assert found is not None
    assert found.id == first.id


def test_the_whole_secret_is_compared_in_constant_time(
    accounts: AccountStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, secret = accounts.keys.create("a")
    compared: list[tuple[bytes, bytes]] = []
    real = hmac.compare_digest

    def watched(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return real(a, b)

    monkeypatch.setattr(hmac, "compare_digest", watched)
    wrong = secret[:11] + "x" * 35
    assert accounts.keys.find(wrong) is None
    digests = [hashlib.sha256(text.encode()).digest() for text in (secret, wrong)]
    assert compared == [tuple(digests)]


def test_rotation(accounts: AccountStore) -> None:
    key, first = accounts.keys.create("a", expires_at=1000.0)
    rotated, second = accounts.keys.rotate(key.id, grace_s=60.0, now=100.0)
    assert second != first
    assert (rotated.id, rotated.prefix) == (key.id, second[:11])
    expiries = [found and found.expires_at for found in map(accounts.keys.find, (first, second))]
    assert expiries == [160.0, 1000.0]
    accounts.keys.rotate(key.id, grace_s=3600.0, now=110.0)
    expiries = [found and found.expires_at for found in map(accounts.keys.find, (first, second))]
    assert expiries == [160.0, 1000.0], "a later rotation prolongs nothing, and a key's own end comes first"


def test_revocation_is_for_good(accounts: AccountStore) -> None:
    key, secret = accounts.keys.create("a")
    assert accounts.keys.revoke(key.id, now=7.0).revoked_at == 7.0
    assert accounts.keys.revoke(key.id, now=8.0).revoked_at == 7.0
    found = accounts.keys.find(secret)
    assert found is not None
    assert found.revoked_at == 7.0
    with pytest.raises(InvalidRequest, match="was revoked"):
        accounts.keys.rotate(key.id)


def test_unknown_keys_are_named(accounts: AccountStore) -> None:
    for ask in (accounts.keys.get, accounts.keys.revoke, accounts.keys.rotate):
        with pytest.raises(UnknownKey, match="'key_x': no key has this id"):
            ask("key_x")


def test_keys_are_listed_by_tenant(accounts: AccountStore) -> None:
    first, _ = accounts.keys.create("a", tenant="one", now=2.0)
    second, _ = accounts.keys.create("b", tenant="two", now=1.0)
    assert accounts.keys.list() == (second, first)
    assert accounts.keys.list(tenant="one") == (first,)


def test_bad_words_are_refused(accounts: AccountStore) -> None:
    for name, tenant in ((" ", "t"), ("n", ""), ("n\n", "t"), ("n", "t" * 101)):
        with pytest.raises(InvalidRequest, match="printable"):
            accounts.keys.create(name, tenant=tenant)
    with pytest.raises(UnknownName, match=r"did you mean 'videos:read'"):
        accounts.keys.create("a", scopes=["video:read"])
    with pytest.raises(InvalidRequest, match="none given"):
        accounts.keys.create("a", scopes=[])
    for limit in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InvalidRequest, match="must be above 0"):
            KeyLimits(gpu_seconds_per_day=limit)
    assert accounts.keys.list() == ()


@pytest.mark.parametrize("seconds", [float("nan"), float("inf")])
def test_no_time_is_not_for_ever(accounts: AccountStore, seconds: float) -> None:
    with pytest.raises(InvalidRequest, match=r"expires_at: .* is no number of seconds"):
        accounts.keys.create("a", expires_at=seconds)
    key, _ = accounts.keys.create("a")
    with pytest.raises(InvalidRequest, match=r"grace_s: .* is no number of seconds"):
        accounts.keys.rotate(key.id, grace_s=seconds)


def test_the_files_hold_no_secret_and_are_private(path: Path) -> None:
    accounts = AccountStore(path)
    key, first = accounts.keys.create("a")
    _, second = accounts.keys.rotate(key.id)
    files = list(path.parent.iterdir())
    assert len(files) == 3, "with the write-ahead log"
    for file in files:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        data = file.read_bytes()
        assert all(secret[11:].encode() not in data for secret in (first, second))
    accounts.close()


def test_each_store_refuses_the_others_file(tmp_path: Path) -> None:
    ids = JOBS.application_id, ACCOUNTS.application_id
    SqliteJobStore(tmp_path / "jobs").close()
    AccountStore(tmp_path / "accounts").close()
    with pytest.raises(StoreError, match=rf"not an account store of Rushes.* id {ids[0]}, .* id {ids[1]}$"):
        AccountStore(tmp_path / "jobs")
    with pytest.raises(StoreError, match="not a job store of Rushes"):
        SqliteJobStore(tmp_path / "accounts")


def test_a_closed_store_says_so(accounts: AccountStore) -> None:
    accounts.close()
    with pytest.raises(StoreError, match="the account store is closed"):
        accounts.keys.list()


def test_batches(accounts: AccountStore) -> None:
    spec = {"template": "a {animal}", "rows": [{"animal": "dog"}]}
    made = [
        accounts.batches.create(key_id="k", tenant=tenant, spec=spec, total=1, now=now)
        for tenant, now in (("one", 5.0), ("two", 4.0), ("one", 3.0))
    ]
    assert accounts.batches.list() == tuple(reversed(made)), (
        "in the order of creation, whatever the clock did"
    )
    assert accounts.batches.list(tenant="one", after=made[2].id, limit=1) == (made[0],)
    assert json.loads(json.dumps(accounts.batches.get(made[0].id, tenant="one").spec)) == spec
    assert accounts.batches.cancel(made[0].id, now=9.0).cancelled_at == 9.0
    assert accounts.batches.cancel(made[0].id, now=10.0).cancelled_at == 9.0
    for ask in (accounts.batches.get, lambda *a, **k: accounts.batches.cancel(*a, now=1.0, **k)):
        with pytest.raises(UnknownBatch, match="no batch has this id"):
            ask(made[0].id, tenant="two")
