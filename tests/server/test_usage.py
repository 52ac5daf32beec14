"""`GET /v1/usage` of a real application: who sees whose use."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from rushes.engine.workplace import Workplace
from rushes.server.app import create_app
from rushes.server.auth import LOCAL, Authenticator
from rushes.server.feed import Feed
from rushes.server.gateway import Gateway
from rushes.server.limits import Limits
from rushes.server.service import Service
from rushes.server.usage import usage_for
from rushes.stores.accounts import AccountStore
from rushes.stores.api_keys import KeyLimits
from rushes.stores.charges import day_of


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with Workplace(tmp_path) as place:
        accounts = AccountStore(tmp_path / "accounts.sqlite")
        limits = Limits(accounts)
        yield Service(
            gateway=Gateway(place, Feed(place.jobs)),
            authenticator=Authenticator(accounts),
            limits=limits,
            accounts=accounts,
        )
        limits.close()
        accounts.close()


def accounts_of(service: Service) -> AccountStore:
    assert service.accounts is not None
    return service.accounts


def new_key(service: Service, tenant: str, *scopes: str, **limits: Any) -> str:
    """A secret of a key that has used 2 of 3 predicted seconds in one job."""
    accounts = accounts_of(service)
    key, secret = accounts.keys.create(
        f"key of {tenant}", tenant=tenant, scopes=scopes, limits=KeyLimits(**limits)
    )
    reservation = accounts.charges.reserve(
        key_id=key.id, tenant=tenant, job_key=key.id, predicted_s=3.0, limits=key.limits, now=time.time()
    )
    accounts.charges.bind(reservation, f"job of {key.id}")
    accounts.charges.settle(f"job of {key.id}", 2.0, now=time.time())
    return secret


def get(service: Service, path: str, secret: str | None) -> httpx2.Response:
    async def ask() -> httpx2.Response:
        transport = httpx2.ASGITransport(create_app(service))
        headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
        async with httpx2.AsyncClient(transport=transport, base_url="http://gateway") as client:
            return await client.get(path, headers=headers)

    return asyncio.run(ask())


def test_a_tenant_sees_its_own_keys(service: Service) -> None:
    secret = new_key(service, "one", "usage:read")
    new_key(service, "two", "usage:read")
    answer = get(service, "/v1/usage?days=1", secret)
    assert answer.status_code == 200
    (row,) = answer.json()["data"]
    figures = {"num_jobs": 1, "predicted_s": 3.0, "actual_s": 2.0, "day": day_of(time.time())}
    assert row.pop("key_id").startswith("key_")
    assert row == {"object": "usage", "key": "key of one", "tenant": "one", **figures}


def test_an_admin_sees_all(service: Service) -> None:
    secrets = [new_key(service, "one", "admin"), new_key(service, "two", "usage:read")]
    rows = get(service, "/v1/usage", secrets[0]).json()["data"]
    assert [row["tenant"] for row in rows] == ["one", "two"]
    assert len(usage_for(accounts_of(service), LOCAL)) == 2


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [("/v1/usage?days=0", 400, "invalid_request"), ("/v1/usage?days=401", 400, "invalid_request")],
)
def test_days_out_of_range(service: Service, path: str, status: int, code: str) -> None:
    answer = get(service, path, new_key(service, "one", "usage:read"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.json()["error"]["field"] == "days"


def test_whoever_may_not(service: Service) -> None:
    answer = get(service, "/v1/usage", None)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthenticated")
    answer = get(service, "/v1/usage", new_key(service, "one", "videos:read"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
    assert "usage:read" in answer.json()["error"]["message"]


def test_a_rate_is_answered_with_its_figures(service: Service) -> None:
    secret = new_key(service, "one", "usage:read", requests_per_minute=2)
    answers = [get(service, "/v1/usage", secret) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    error = answers[2].json()["error"]
    assert (error["code"], error["limit"], error["used"], error["remaining"]) == ("rate_limited", 2, 2, 0)
    assert int(answers[2].headers["Retry-After"]) == math.ceil(error["retry_after_s"])
    assert 0 < error["reset_s"] - 60 <= error["retry_after_s"] < 61
