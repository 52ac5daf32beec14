"""`rushes keys` and `rushes usage`, from the first key to a revoked one."""

from __future__ import annotations

import json
import stat
import time
from pathlib import Path

import pytest
from command_line import Command

from rushes.stores.accounts import ACCOUNTS_FILE, AccountStore


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_a_secret_is_printed_once_alone(rushes: Command, store: Path) -> None:
    made = rushes("keys", "create", "ci", "--store", store, "--tenant", "acme")
    secret = made.out.strip()
    assert secret.startswith("rk_")
    assert f"of tenant acme in {store}; this is shown once" in made.err
    assert stat.S_IMODE((store / ACCOUNTS_FILE).stat().st_mode) == 0o600
    for flags in ((), ("--json",)):
        listed = rushes("keys", "list", "--store", store, *flags).out
        assert secret[:11] in listed
        assert secret[11:] not in listed
    accounts = AccountStore(store / ACCOUNTS_FILE)
    found = accounts.keys.find(secret)
    accounts.close()
    assert found is not None
    assert (found.name, found.tenant) == ("ci", "acme")


def test_every_flag_ends_in_the_key(rushes: Command, store: Path) -> None:
    flags = (
        "--rpm 60 --jobs 2 --gpu-seconds-a-day 1.5 --expires-days 2 --scope videos:read --scope usage:read"
    )
    hook = "https://example.com/hook"
    made = json.loads(
        rushes("keys", "create", "--store", store, *flags.split(), "--webhook", hook, "--json").out
    )
    assert (made["requests_per_minute"], made["concurrent_jobs"], made["gpu_seconds_per_day"]) == (60, 2, 1.5)
    assert (made["scopes"], made["webhook"]) == (["usage:read", "videos:read"], hook)
    assert abs(made["expires_at"] - time.time() - 2 * 86400) < 60
    assert made["webhook_secret"].startswith("whsec_")
    listed = json.loads(rushes("keys", "list", "--store", store, "--json").out)
    assert {**listed, "secret": made["secret"], "webhook_secret": made["webhook_secret"]} == made
    table = rushes("keys", "list", "--store", store).out
    assert "60 requests/min, 2 jobs, 1.5 GPU-s/day" in table


def test_rotate_and_revoke(rushes: Command, store: Path) -> None:
    made = json.loads(rushes("keys", "create", "--store", store, "--json").out)
    rotated = rushes("keys", "rotate", made["id"], "--store", store, "--grace-hours", "0").out.strip()
    assert rotated != made["secret"]
    assert rushes("keys", "revoke", made["id"], "--store", store).out == "revoked\n"
    assert "revoked" in rushes("keys", "list", "--store", store).out
    again = rushes("keys", "rotate", made["id"], "--store", store)
    assert (again.status, again.out) == (2, "")
    assert "was revoked and cannot be rotated" in again.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--scope", "video:read"), "'video:read' is not one of"),
        (("--rpm", "0"), "0 is not in the range"),
        (("--gpu-seconds-a-day", "nan"), "gpu_seconds_per_day: nan must be above 0"),
        (("--webhook", "ftp://example.com"), "'ftp' must be http or https"),
        (("--tenant", ""), "tenant: '' must be 1 to 100 printable characters"),
    ],
)
def test_bad_flags_are_named(rushes: Command, store: Path, flags: tuple[str, ...], message: str) -> None:
    result = rushes("keys", "create", "--store", store, *flags)
    assert result.status == 2
    assert message in result.err


def test_what_is_not_there(rushes: Command, store: Path) -> None:
    for command in (("keys", "list"), ("keys", "revoke", "x"), ("usage",)):
        result = rushes(*command, "--store", store)
        assert result.status == 2
        assert "there are no keys; rushes keys create makes one" in result.err
    assert not store.exists()
    rushes("keys", "create", "--store", store)
    result = rushes("keys", "revoke", "key_x", "--store", store)
    assert (result.status, "no key has this id" in result.err) == (2, True)


def test_a_subcommand_takes_debug(rushes: Command, store: Path) -> None:
    assert rushes("keys", "create", "--store", store, "--debug").status == 0
    with pytest.raises(Exception, match="no key has this id"):
        rushes("keys", "revoke", "key_x", "--store", store, "--debug")


def test_use_by_key_and_day(rushes: Command, store: Path) -> None:
    made = json.loads(rushes("keys", "create", "ci", "--store", store, "--tenant", "acme", "--json").out)
    accounts = AccountStore(store / ACCOUNTS_FILE)
    key = accounts.keys.get(made["id"])
    reservation = accounts.charges.reserve(
        key_id=key.id, tenant="acme", job_key="a", predicted_s=12.34, limits=key.limits, now=time.time()
    )
    accounts.charges.bind(reservation, "job")
    accounts.charges.settle("job", 10.0, now=time.time())
    accounts.close()
    row = json.loads(rushes("usage", "--store", store, "--json").out)
    assert (row["key_id"], row["key"], row["num_jobs"]) == (key.id, "ci", 1)
    assert (row["predicted_s"], row["actual_s"]) == (12.34, 10.0)
    table = rushes("usage", "--store", store).out
    assert "12.3 s" in table
    assert "10.0 s" in table
    assert rushes("usage", "--store", store, "--tenant", "other", "--json").out == ""
